"""A data set as small files, for training elsewhere: fewer pixels, 8 bits, only the HU that are looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichseg.data.datalist import load_datalist, read_slice_table, write_datalist
from ichseg.data.resampling import moved_and_scaled, resize_slices
from ichseg.defaults import COMPACT_SIZE
from ichseg.errors import IchsegError
from ichseg.io import (
    SPACING_UNKNOWN,
    Volume,
    nifti_image,
    read_mask,
    read_volume,
    same_grid,
    save_image,
    scan_name,
    slice_axis,
    spacing_mm,
    staged_folder,
)

# All that the presets' windows show: -15 to 115 HU (paper), 0 to 100 HU (recommended), -20 HU to tell fat from air.
COMPACT_HU = (-20.0, 115.0)
SMALLEST = 9  # gzip level


def prepare_compact(
    datalist: str | Path,
    output: str | Path,
    size: int = COMPACT_SIZE,
    folds: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    warn: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Copy a data set with slices of ``size`` x ``size`` pixels and 8-bit voxels, whole HU from -20 to 115.

    HU are clipped before pixels are averaged, as the presets do it, though each at bounds of its own. Volumes stay
    NIfTI in Hounsfield units, so that everything that reads the data set reads its copy. In a wide field of view the
    head has few pixels left; a larger ``size`` keeps them.

    Args:
        datalist: of the data set.
        output: new folder for ``images/``, ``labels/`` (nearest neighbor), ``slice_labels.csv`` and
            ``datalist.json``.
        size: pixels per side; scans with no side longer than this keep their pixels.
        folds: only these, such as ``"0-2"``; None: all scans.
        progress: wraps the iteration over scans.
        warn: told what is doubtful about the scans; in the copy it can no longer be seen.

    Returns:
        counts: volumes, slices, positive_slices, bytes.

    Raises:
        IchsegError: names the scan that cannot be read or that its mask or labels do not fit, or the output exists.
    """
    if size < 1:
        raise IchsegError(f"size must be at least 1, not {size}")
    scans = load_datalist(datalist, folds)
    table = read_slice_table(Path(datalist).parent)
    entries: list[dict[str, Any]] = []
    doubts: Counter[str] = Counter()
    with staged_folder(output) as folder:
        for scan in progress(scans):
            volume = read_volume(scan["image"])
            doubts.update(volume.flags)
            entries.append(_copied(scan, volume, folder, size, table))
        labels = [label for scan in scans for label in scan.get("slice_labels", ())]
        counts = {"volumes": len(entries), "slices": len(labels), "positive_slices": sum(labels)}
        write_datalist(folder, "compact", entries, largest_side=size, hounsfield=COMPACT_HU, counts=counts)
        counts["bytes"] = sum(file.stat().st_size for file in folder.rglob("*.nii.gz"))
    for doubt, count in doubts.items():
        warn(f"{count} of {len(scans)} scans: {doubt}")
    return counts


def _copied(
    scan: dict[str, Any], volume: Volume, folder: Path, size: int, table: dict[tuple[str, int], dict[str, str]]
) -> dict[str, Any]:
    """The scan's entry in the new datalist; its files are written."""
    name, axis = scan_name(scan["image"]), slice_axis(volume.affine)
    given = scan.get("slice_labels", ())
    if given and len(given) != volume.array.shape[axis]:
        raise IchsegError(
            f"{scan['image']}: {volume.array.shape[axis]} slices, but the datalist lists {len(given)} slice_labels"
        )
    image, affine = _resized(np.clip(volume.array, *COMPACT_HU), volume.affine, size, "bilinear")
    stored = np.rint(image - COMPACT_HU[0]).astype(np.uint8)
    unknown = any(SPACING_UNKNOWN in flag for flag in volume.flags)
    saved = nifti_image(stored, affine, SPACING_UNKNOWN if unknown else "")
    saved.header.set_slope_inter(1.0, COMPACT_HU[0])
    entry = {**scan, "image": f"images/{name}.nii.gz"}
    save_image(folder / entry["image"], saved, SMALLEST)
    if "label" in scan:
        mask, mask_affine = read_mask(scan["label"])
        if not same_grid(volume.array.shape, volume.affine, mask.shape, mask_affine):
            raise IchsegError(f"{scan['label']}: not on the same grid as {scan['image']}")
        label, _ = _resized(mask, volume.affine, size, "nearest")
        entry["label"] = f"labels/{name}.nii.gz"
        save_image(folder / entry["label"], nifti_image(label, affine), SMALLEST)
    if "spacing_mm" in entry:
        entry["spacing_mm"] = list(spacing_mm(affine))
    if given:  # the table knows the subtypes
        rows = [table.get((scan["case"], index), {}) for index in range(len(given))]
        entry["slices"] = [{**row, "hemorrhage": label} for row, label in zip(rows, given, strict=True)]
    return entry


def _resized(array: np.ndarray, affine: np.ndarray, size: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    axis = slice_axis(affine)
    if max(n for i, n in enumerate(array.shape) if i != axis) <= size:
        return array, affine
    made = resize_slices(torch.as_tensor(array)[None], axis, (size, size), mode)[0].numpy()
    return made, moved_and_scaled(affine, (0, 0, 0), array.shape, made.shape)
