"""Anyone's own NIfTI scans with a table of slice labels -> an ichseg data folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.data.label_table import read_label_table
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError
from ichseg.io import Volume, find_scans, read_mask, read_volume, scan_name, slice_axis, staged_folder


def prepare_nifti(
    scans: str | Path,
    table: str | Path,
    output: str | Path,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
    masks: str | Path | None = None,
) -> dict[str, int]:
    """Write a datalist for scans that stay where they are.

    The table is a CSV with columns ``case`` (file name without ``.nii.gz``), ``slice_number`` (from 1, in the
    order the file stores its slices) and ``hemorrhage`` (0 or 1), one row per slice; an optional column
    ``patient`` keeps scans of one patient in one fold. See :func:`ichseg.data.label_table.read_label_table`.

    Args:
        scans: folder of NIfTI files.
        table: the CSV.
        output: a new or empty folder.
        progress: wraps the iteration over scans.
        warn: told of scans without rows, and of uneven folds.
        masks: folder of true masks ``<case>.nii.gz``, where there are some; needed for evaluation and experiments only.
        fold_tolerance: see :func:`ichseg.data.assign_folds` (decision D3).

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: names the scan, row or file that does not fit.
    """
    scans, table, output = Path(scans), Path(table), Path(output)
    labels, patients = read_label_table(table)
    files: dict[str, Path] = {}
    for file in find_scans(scans):
        if (other := files.setdefault(scan_name(file), file)) is not file:
            raise IchsegError(f"{file}: same file name as {other}; case names must be unique")
    unknown = sorted(set(labels) - set(files))
    if unknown:
        raise IchsegError(f"{table}: case '{unknown[0]}' has no {unknown[0]}.nii.gz in {scans}")
    for name in sorted(set(files) - set(labels)):
        warn(f"{files[name]}: no row in {table}; skipped")
    entries: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for file in progress([files[name] for name in sorted(labels)]):
            name = scan_name(file)
            volume = read_volume(file)
            for flag in volume.flags:
                warn(f"{file}: {flag}")
            count = volume.array.shape[slice_axis(volume.affine)]
            numbers = sorted(labels[name])
            if numbers != list(range(1, count + 1)):
                found = f"{len(numbers)} rows with numbers {numbers[0]} to {numbers[-1]}"
                raise IchsegError(f"{table}: case '{name}' needs one row for each slice 1 to {count}, found {found}")
            rows = [{"slice_number": n, "hemorrhage": labels[name][n]} for n in numbers]
            image = os.path.relpath(file.absolute(), output.absolute())
            entry = {"case": name, "patient": patients[name], "image": image}
            mask = None if masks is None else _mask_of(Path(masks), name, volume)
            if mask is not None:
                entry["label"] = os.path.relpath(mask.absolute(), output.absolute())
            entries.append({**entry, "slices": rows})
        if masks is not None and not any("label" in entry for entry in entries):
            raise IchsegError(f"{masks}: no mask <case>.nii.gz for any of {len(entries)} scans")
        counts = fold_scans(entries, fold_tolerance, warn)
        write_datalist(staged, scans.name, entries, counts=counts)
    return counts


def _mask_of(folder: Path, name: str, scan: Volume) -> Path | None:
    for suffix in (".nii.gz", ".nii"):
        if (file := folder / f"{name}{suffix}").is_file():
            mask, affine = read_mask(file)
            if mask.shape != scan.array.shape:
                raise IchsegError(f"{file}: shape {mask.shape} differs from the scan's {scan.array.shape}")
            if not np.array_equal(io_orientation(affine), io_orientation(scan.affine)):
                raise IchsegError(f"{file}: its axes are oriented differently from those of {scan.path}; was the mask "
                                  "saved without its affine? Save it with the affine of the scan")  # fmt: skip
            return file
    return None
