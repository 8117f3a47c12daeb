"""A data set as small files, for training elsewhere: fewer pixels, 8 bits, only the HU that are looked at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor

from ichseg.data.datalist import load_datalist, write_datalist
from ichseg.errors import IchsegError
from ichseg.io import (
    SPACING_UNKNOWN,
    nifti_image,
    read_mask,
    read_volume,
    save_image,
    slice_axis,
    spacing_mm,
    staged_folder,
)
from ichseg.transforms.resize import SliceResize

# All that the presets' windows show: -15 to 115 HU (paper), 0 to 100 HU (recommended), -20 HU to tell fat from air.
COMPACT_HU = (-20.0, 115.0)
SMALLEST = 9  # gzip level
TABLE = "slice_labels.csv"


def prepare_compact(
    datalist: str | Path,
    output: str | Path,
    size: int = 384,
    folds: str | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, int]:
    """Copy a data set with slices of ``size`` x ``size`` pixels and 8-bit voxels, whole HU from -20 to 115.

    HU are clipped before pixels are averaged, as the presets do it. Volumes stay NIfTI in Hounsfield units, so that
    everything that reads the data set reads its copy.

    Args:
        datalist: of the data set.
        output: new folder for ``images/``, ``labels/`` (nearest neighbor), ``slice_labels.csv`` and
            ``datalist.json``.
        size: pixels per side; smaller slices stay as they are.
        folds: only these, such as ``"0-2"``; None: all scans.
        progress: wraps the iteration over scans.

    Returns:
        counts: volumes, slices, positive_slices, bytes.

    Raises:
        IchsegError: names the scan that cannot be read or whose mask does not fit it, or the output exists.
    """
    if size < 1:
        raise IchsegError(f"size must be at least 1, not {size}")
    scans = load_datalist(datalist, folds)
    entries: list[dict[str, Any]] = []
    with staged_folder(output) as folder:
        for scan in progress(scans):
            entries.append(_copied(scan, folder, size))
        labels = [label for entry in entries for label in entry.get("slice_labels", ())]
        counts = {"volumes": len(entries), "slices": len(labels), "positive_slices": sum(labels)}
        write_datalist(folder, "compact", entries, size=size, hounsfield=COMPACT_HU, counts=counts)
        if (table := Path(datalist).parent / TABLE).is_file():  # it knows the subtypes
            shutil.copyfile(table, folder / TABLE)
        counts["bytes"] = sum(file.stat().st_size for file in folder.rglob("*.nii.gz"))
    return counts


def _copied(scan: dict[str, Any], folder: Path, size: int) -> dict[str, Any]:
    """The scan's entry in the new datalist; its files are written."""
    case = scan["case"]
    volume = read_volume(scan["image"])
    array = np.clip(volume.array, *COMPACT_HU)
    image, affine = _resized(array, volume.affine, size, "bilinear")
    unknown = any(SPACING_UNKNOWN in flag for flag in volume.flags)
    stored = np.rint(image - COMPACT_HU[0]).astype(np.uint8)
    saved = nifti_image(stored, affine, SPACING_UNKNOWN if unknown else "")
    saved.header.set_slope_inter(1.0, COMPACT_HU[0])
    entry = {**scan, "image": f"images/{case}.nii.gz"}
    save_image(folder / entry["image"], saved, SMALLEST)
    if "label" in scan:
        mask, mask_affine = read_mask(scan["label"])
        if mask.shape != volume.array.shape:
            raise IchsegError(f"{scan['label']}: shape {mask.shape} differs from the scan's {volume.array.shape}")
        entry["label"] = f"labels/{case}.nii.gz"
        label, label_affine = _resized(mask, mask_affine, size, "nearest")
        kind = np.uint8 if label.min() >= 0 and label.max() <= 255 else np.int16
        save_image(folder / entry["label"], nifti_image(label.astype(kind), label_affine), SMALLEST)
    if "spacing_mm" in entry:
        entry["spacing_mm"] = [float(step) for step in spacing_mm(affine)]
    return entry


def _resized(array: np.ndarray, affine: np.ndarray, size: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    axis = slice_axis(affine)
    if max(n for i, n in enumerate(array.shape) if i != axis) <= size:
        return array, affine
    volume = MetaTensor(torch.as_tensor(array)[None], affine=torch.as_tensor(affine))
    made = cast(MetaTensor, SliceResize(size, mode)(volume))
    return made.as_tensor()[0].numpy(), np.asarray(made.affine)
