"""BHSD: 192 head CT scans with five-subtype masks -> an ichseg data folder.

Wu et al., MLMI 2023, arXiv 2308.11298. Scan names are ``ID_<patient>_ID_<study>.nii.gz``; repeated studies of
one patient share the first token and always share a fold (decision D1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.data.subtypes import SUBTYPES
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError
from ichseg.io import lost_intercept, read_mask, read_volume, scan_name, slice_axis, staged_folder, write_volume

IMAGE_FOLDERS = ("images", "imagesTr")
MASK_FOLDERS = ("ground truths", "ground_truths", "labels", "labelsTr", "masks")


def prepare_bhsd(
    source: str | Path,
    output: str | Path,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    group_by: str = "patient",
    labels_at: int | None = None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert the annotated part of BHSD into ``images/``, ``labels/``, ``slice_labels.csv``, ``datalist.json``.

    The affine of the release, a qform
    that may be oblique, is kept as both forms. The release stores unsigned voxels: where the rescale
    intercept was lost (brain near 1,000 instead of 30), 1024 is taken off and the datalist says so.

    Args:
        source: folder that holds ``images`` and ``ground truths``, or their parent ``label_192``.
        output: a new or empty folder; it appears only when everything has been converted.
        progress: wraps the iteration over scans.
        warn: told, one line each, of what was noticed.
        group_by: what never straddles folds: ``"patient"`` (decision D1: as in the paper) or ``"scan"``.
        labels_at: a slice is positive if its mask has any pixel: at native resolution (None, decision D2: the paper
            is silent, and a lesion of a few pixels must not vanish), or after nearest resizing to so many pixels per
            side.
        fold_tolerance: see :func:`ichseg.data.assign_folds` (decision D3).

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: a file is missing or unreadable; the message names it. Nothing is left behind.
    """
    source, output = Path(source), Path(output)
    if group_by not in ("patient", "scan"):
        raise IchsegError(f"group_by must be patient or scan, not '{group_by}'")
    images, masks = _find_folders(source)
    image_files = {scan_name(p): p for p in images.iterdir() if p.name.endswith((".nii", ".nii.gz"))}
    mask_files = {scan_name(p): p for p in masks.iterdir() if p.name.endswith((".nii", ".nii.gz"))}
    if not image_files:
        raise IchsegError(f"{images}: no .nii or .nii.gz file in this folder")
    for name in sorted(set(image_files) ^ set(mask_files)):
        there, lacks = (image_files[name], masks) if name in image_files else (mask_files[name], images)
        raise IchsegError(f"{there}: no file with this name in {lacks}")
    scans: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for name in progress(sorted(image_files)):
            scan = _convert(name, image_files[name], mask_files[name], staged, labels_at, warn)
            scans.append({**scan, "patient": patient_of(name) if group_by == "patient" else name})
        counts = fold_scans(scans, fold_tolerance, warn)
        write_datalist(staged, "BHSD", scans, license="MIT", doi="10.48550/arXiv.2308.11298", counts=counts)
    return counts


def patient_of(name: str) -> str:
    """``ID_0237f3c9_ID_40015688b9`` -> ``ID_0237f3c9``."""
    return "_".join(name.split("_")[:2])


def _find_folders(source: Path) -> tuple[Path, Path]:
    for root in (source, source / "label_192"):
        images = next((root / f for f in IMAGE_FOLDERS if (root / f).is_dir()), None)
        masks = next((root / f for f in MASK_FOLDERS if (root / f).is_dir()), None)
        if images and masks:
            return images, masks
    raise IchsegError(f"{source}: must contain the folders 'images' and 'ground truths' (or 'labels')")


def _convert(
    name: str, image_file: Path, mask_file: Path, output: Path, labels_at: int | None, warn: Callable[[str], None]
) -> dict[str, Any]:
    volume, (mask, _) = read_volume(image_file), read_mask(mask_file)
    if mask.shape != volume.array.shape:
        raise IchsegError(f"{mask_file}: shape {mask.shape} differs from the scan's {volume.array.shape}")
    unknown = sorted(set(np.unique(mask).tolist()) - {0, *SUBTYPES})
    if unknown:
        raise IchsegError(f"{mask_file}: unknown mask codes {unknown}; BHSD has 0 to {max(SUBTYPES)}")
    offset = lost_intercept(volume.array)
    if offset:
        warn(f"{image_file}: no rescale intercept in the file; subtracted {offset} from every voxel")
    hounsfield = np.rint(np.clip(volume.array - offset, -32768, 32767)).astype(np.int16)
    axis = slice_axis(volume.affine)
    slices = [
        {
            "hemorrhage": int(section.any()),
            **{short: int((section == code).any()) for code, short in SUBTYPES.items()},
        }
        for section in (_nearest(s, labels_at) for s in np.moveaxis(mask, axis, 0))
    ]
    write_volume(output / "images" / f"{name}.nii.gz", hounsfield, volume.affine)
    write_volume(output / "labels" / f"{name}.nii.gz", mask.astype(np.uint8), volume.affine)
    scan = {
        "case": name,
        "image": f"images/{name}.nii.gz",
        "label": f"labels/{name}.nii.gz",
        "label_slices": list(range(len(slices))),
        "slices": slices,
    }
    return {**scan, "hu_offset": -offset} if offset else scan


def _nearest(section: np.ndarray, size: int | None) -> np.ndarray:
    """The section resized to ``size`` x ``size`` by nearest neighbor; as it is for None."""
    if size is None:
        return section
    rows, columns = (((np.arange(size) + 0.5) * n / size).astype(int) for n in section.shape)
    return section[np.ix_(rows, columns)]
