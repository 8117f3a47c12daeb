"""Seq-CQ500: scans of CQ500 with masks, as slices -> an ichseg data folder.

Spahr et al., Frontiers in Neuroimaging 2023; Zenodo 8063221. ``ct_info.csv`` has one row per slice: ``PatientNumber``,
``SliceNumber`` from 1, ``CT_fn``, ``mask_fn`` or ``None``. Slices are ``Patient_CT/<patient>/<slice>.tif`` in HU, masks
``<slice>_ICH_Seg.bmp`` in the same folder. There is no spacing; left and right are assumed to be in radiological view.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError
from ichseg.io import SPACING_UNKNOWN, staged_folder, write_volume

TABLE = "ct_info.csv"
NEEDED = ("PatientNumber", "SliceNumber", "CT_fn", "mask_fn")
NO_MASK = ("", "None", "nan")
NOMINAL_MM = (0.45, 5.0)


def prepare_seq_cq500(
    source: str | Path,
    output: str | Path,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert the slices into ``images/``, ``labels/``, ``slice_labels.csv``, ``datalist.json``.

    Args:
        source: folder that holds ``ct_info.csv`` and ``Patient_CT/``.
        output: a new or empty folder; it appears only when everything has been converted.
        progress: wraps the iteration over patients.
        warn: told, one line each, of what was noticed.
        fold_tolerance: see :func:`ichseg.data.assign_folds`.

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: a file is missing or of another kind; the message names it. Nothing is left behind.
    """
    source = Path(source)
    patients = _rows(source / TABLE)
    scans: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for patient, rows in progress(sorted(patients.items())):
            scans.append(_convert(patient, rows, source, staged))
        warn(f"{source / TABLE}: the release has no spacing; {NOMINAL_MM[0]} and {NOMINAL_MM[1]} mm are nominal")
        counts = fold_scans(scans, fold_tolerance, warn)
        write_datalist(staged, "Seq-CQ500", scans, license="CC BY-NC-SA 4.0", doi="10.5281/zenodo.8063221",
                       counts=counts)  # fmt: skip
    return counts


def _rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """Patient -> rows in the order of the slices."""
    if not path.is_file():
        raise IchsegError(f"{path}: file not found; the folder must hold {TABLE} and Patient_CT/")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if lacking := [name for name in NEEDED if name not in (reader.fieldnames or ())]:
            raise IchsegError(f"{path}: line 1: no column '{lacking[0]}'")
        found: dict[str, list[dict[str, str]]] = {}
        for number, row in enumerate(reader, start=2):
            if not (row["SliceNumber"] or "").isdigit():
                raise IchsegError(f"{path}: line {number}: SliceNumber must be a number, not '{row['SliceNumber']}'")
            found.setdefault(f"{row['PatientNumber']:0>3}", []).append(row)
    if not found:
        raise IchsegError(f"{path}: the table has no rows")
    return {name: sorted(rows, key=lambda row: int(row["SliceNumber"])) for name, rows in found.items()}


def _convert(patient: str, rows: list[dict[str, str]], source: Path, output: Path) -> dict[str, Any]:
    slices, masks = [], []
    for row in rows:
        slices.append(_picture(source / row["CT_fn"]).astype(np.float32))
        named = row["mask_fn"] not in NO_MASK
        mask = _picture(source / row["mask_fn"]) > 0 if named else np.zeros(slices[-1].shape, bool)
        if mask.shape != slices[-1].shape or slices[-1].shape != slices[0].shape:
            raise IchsegError(f"{source / (row['mask_fn'] if named else row['CT_fn'])}: {mask.shape} pixels, but the "
                              f"patient's first slice has {slices[0].shape}")  # fmt: skip
        masks.append(mask)
    hounsfield = np.stack(slices, axis=-1)
    if hounsfield.min() >= 0 and hounsfield.max() <= 255:
        raise IchsegError(f"{source / rows[0]['CT_fn']}: gray values from {hounsfield.min():g} to {hounsfield.max():g} "
                          "are not Hounsfield units")  # fmt: skip
    # Pictures: the first axis runs down, to the back, the second to the patient's left; volumes: the other way round.
    volume = np.rint(hounsfield.transpose(1, 0, 2)).clip(-32768, 32767).astype(np.int16)
    label = np.stack(masks, axis=-1).transpose(1, 0, 2).astype(np.uint8)
    affine = np.diag([-NOMINAL_MM[0], -NOMINAL_MM[0], NOMINAL_MM[1], 1.0])
    write_volume(output / "images" / f"{patient}.nii.gz", volume, affine, SPACING_UNKNOWN)
    write_volume(output / "labels" / f"{patient}.nii.gz", label, affine, SPACING_UNKNOWN)
    return {
        "case": patient,
        "patient": patient,
        "image": f"images/{patient}.nii.gz",
        "label": f"labels/{patient}.nii.gz",
        "label_slices": list(range(len(rows))),
        "spacing_mm": "unknown",
        "slices": [
            {"slice_number": int(row["SliceNumber"]), "hemorrhage": int(mask.any())}
            for row, mask in zip(rows, masks, strict=True)
        ],
    }


def _picture(path: Path) -> np.ndarray:
    if not path.is_file():
        raise IchsegError(f"{path}: file not found, but {TABLE} names it")
    try:
        with Image.open(path) as image:
            array = np.asarray(image)
    except (OSError, ValueError) as error:
        raise IchsegError(f"{path}: not a picture that can be read ({error})") from None
    return array[..., 0] if array.ndim == 3 else array
