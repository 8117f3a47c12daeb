"""Releases of NIfTI scans with NIfTI masks of the same names -> an ichseg data folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError
from ichseg.io import lost_intercept, read_volume, scan_name, slice_axis, staged_folder, write_volume
from ichseg.io.lay import read_mask_of

NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class MaskedRelease:
    """What there is to know of a release.

    Attributes:
        name, license, doi: for the datalist.
        roots: folders below the source, one of which holds the two others.
        images, masks: names these two may have.
        codes: value in a mask -> subtype; None: hemorrhage of no particular one.
        patient: name of a scan -> patient.
    """

    name: str
    license: str
    doi: str
    roots: Sequence[str]
    images: Sequence[str]
    masks: Sequence[str]
    codes: Mapping[int, str | None]
    patient: Callable[[str], str]

    def folders(self, source: Path) -> tuple[Path, Path]:
        """Of images and of masks."""
        for root in (source / name for name in self.roots):
            images = next((root / f for f in self.images if (root / f).is_dir()), None)
            masks = next((root / f for f in self.masks if (root / f).is_dir()), None)
            if images and masks:
                return images, masks
        raise IchsegError(
            f"{source}: must contain the folders '{self.images[0]}' and '{self.masks[0]}', as {self.name}"
        )


def prepare_masked(
    release: MaskedRelease,
    source: str | Path,
    output: str | Path,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    group_by: str = "patient",
    labels_at: int | None = None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert a release into ``images/``, ``labels/``, ``slice_labels.csv``, ``datalist.json``.

    The affine of the release, a qform that may be oblique, is kept as both forms. Where the rescale intercept was lost
    (brain near 1,000 instead of 30), 1024 is taken off and the datalist says so.

    Args:
        release: which one.
        source: folder that holds its images and masks.
        output: a new or empty folder; it appears only when everything has been converted.
        progress: wraps the iteration over scans.
        warn: told, one line each, of what was noticed.
        group_by: what never straddles folds: ``"patient"`` or ``"scan"``.
        labels_at: a slice is positive if its mask has any pixel: at native resolution (None, decision D2: a lesion of a
            few pixels must not vanish), or after nearest resizing to so many pixels per side.
        fold_tolerance: see :func:`ichseg.data.assign_folds` (decision D3).

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: a file is missing or unreadable; the message names it. Nothing is left behind.
    """
    source = Path(source)
    images, masks = release.folders(source)
    return _prepared(release, images, masks, output, progress, warn, group_by, labels_at, fold_tolerance)


def prepare_nifti_masks(
    scans: str | Path,
    masks: str | Path,
    output: str | Path,
    codes: Mapping[int, str | None] | None = None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert any folder of NIfTI scans with a folder of NIfTI masks of the same names; a scan is a patient.

    Args:
        scans, masks: the folders.
        output: a new or empty folder; it appears only when everything has been converted.
        codes: value in a mask -> subtype, or None for hemorrhage of no particular one; None: 1 is hemorrhage.
        progress, warn, fold_tolerance: see :func:`prepare_masked`.

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: a file is missing or unreadable, or a mask has another code; the message names it.
    """
    scans, masks = Path(scans), Path(masks)
    for folder in (scans, masks):
        if not folder.is_dir():
            raise IchsegError(f"{folder}: folder not found")
    release = MaskedRelease(scans.resolve().name, "", "", ("",), (), (), codes or {1: None}, lambda name: name)
    return _prepared(release, scans, masks, output, progress, warn, "scan", None, fold_tolerance)


def _prepared(
    release: MaskedRelease,
    images: Path,
    masks: Path,
    output: str | Path,
    progress: Callable[[Iterable[str]], Iterable[str]],
    warn: Callable[[str], None],
    group_by: str,
    labels_at: int | None,
    fold_tolerance: float,
) -> dict[str, int]:
    output = Path(output)
    if group_by not in ("patient", "scan"):
        raise IchsegError(f"group_by must be patient or scan, not '{group_by}'")
    image_files = {scan_name(p): p for p in images.iterdir() if p.name.endswith(NIFTI)}
    mask_files = {scan_name(p): p for p in masks.iterdir() if p.name.endswith(NIFTI)}
    if not image_files:
        raise IchsegError(f"{images}: no .nii or .nii.gz file in this folder")
    for name in sorted(set(image_files) ^ set(mask_files)):
        file, other = (image_files[name], masks) if name in image_files else (mask_files[name], images)
        raise IchsegError(f"{file}: no file with this name in {other}")
    scans: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for name in progress(sorted(image_files)):
            scan = _convert(release, name, image_files[name], mask_files[name], staged, labels_at, warn)
            scans.append({**scan, "patient": release.patient(name) if group_by == "patient" else name})
        counts = fold_scans(scans, fold_tolerance, warn)
        about = {key: value for key in ("license", "doi") if (value := getattr(release, key))}
        write_datalist(staged, release.name, scans, **about, counts=counts)
    return counts


def _convert(
    release: MaskedRelease,
    name: str,
    image_file: Path,
    mask_file: Path,
    output: Path,
    labels_at: int | None,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    mask = read_mask_of(mask_file, image_file)
    return converted_scan(name, image_file, mask_file, mask, release.codes, release.name, output, labels_at, warn)


def converted_scan(
    name: str,
    image_file: Path,
    mask_file: Path,
    mask: np.ndarray,
    codes: Mapping[int, str | None],
    release: str,
    output: Path,
    labels_at: int | None,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Write one scan and its mask; returns its entry of the datalist, with ``slices``.

    Args:
        name: of the case.
        image_file: the scan.
        mask_file: where the mask came from, for messages.
        mask: (X, Y, Z).
        codes: value in the mask -> subtype; None: hemorrhage of no particular one.
        release: what the data set is called.
        output: folder for ``images/`` and ``labels/``.
        labels_at: see :func:`prepare_masked`.
        warn: told of what was noticed.

    Raises:
        IchsegError: another shape than the scan's, or a value that is no code.
    """
    volume = read_volume(image_file)
    if mask.shape != volume.array.shape:
        raise IchsegError(f"{mask_file}: shape {mask.shape} differs from the scan's {volume.array.shape}")
    unknown = sorted(set(np.unique(mask).tolist()) - {0, *codes})
    if unknown:
        raise IchsegError(
            f"{mask_file}: unknown mask codes {unknown}; those of {release} are {', '.join(map(str, (0, *codes)))}"
        )
    offset = lost_intercept(volume.array)
    if offset:
        warn(f"{image_file}: no rescale intercept in the file; subtracted {offset} from every voxel")
    hounsfield = np.rint(np.clip(volume.array - offset, -32768, 32767)).astype(np.int16)
    axis = slice_axis(volume.affine)
    slices = [
        {
            "hemorrhage": int(section.any()),
            **{short: int((section == code).any()) for code, short in codes.items() if short is not None},
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
