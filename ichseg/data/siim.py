"""SIIM-ACR pneumothorax (2019) -> a data folder in which "hemorrhage" means pneumothorax.

Chest X-rays as DICOM files, ``dicom-images-train/<study>/<series>/<image>.dcm``, and ``train-rle.csv`` with a row per
outline: ``ImageId`` and ``EncodedPixels``, -1 for none. Each X-ray becomes a scan of one slice, its gray levels in the
place of Hounsfield units and lying as an axial slice would, so that everything here reads it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError
from ichseg.io import staged_folder, write_volume

TABLE, FOLDER = "train-rle.csv", "dicom-images-train"
PATIENT = "0010|0020"
NONE = "-1"


def prepare_siim(
    source: str | Path,
    output: str | Path,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert the labeled X-rays into ``images/``, ``labels/``, ``slice_labels.csv`` and ``datalist.json``.

    Args:
        source: folder that holds ``train-rle.csv`` and ``dicom-images-train/``.
        output: a new or empty folder; it appears only when everything has been converted.
        progress: wraps the iteration over X-rays.
        warn: told, one line each, of X-rays without a row, which are left out.
        fold_tolerance: see :func:`ichseg.data.assign_folds`.

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: the layout is another, a file cannot be read, or an outline does not fit its X-ray.
    """
    source, output = Path(source), Path(output)
    outlines = read_outlines(source / TABLE)
    files = {file.stem: file for file in sorted((source / FOLDER).rglob("*.dcm"))}
    if not files:
        raise IchsegError(f"{source / FOLDER}: no .dcm file in this folder")
    if lacking := sorted(set(outlines) - set(files)):
        raise IchsegError(f"{source / FOLDER}: no file {lacking[0]}.dcm, but {TABLE} has a row for it")
    for name in sorted(set(files) - set(outlines)):
        warn(f"{files[name]}: no row in {TABLE}; left out")
    scans: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for name in progress(sorted(outlines)):
            gray, patient, spacing = _read(files[name])
            mask = np.zeros(gray.shape, np.uint8)
            for runs in outlines[name]:
                mask |= decoded(runs, gray.shape, f"{source / TABLE}: {name}")
            affine = np.diag([-spacing[0], -spacing[1], 1.0, 1.0])
            write_volume(staged / "images" / f"{name}.nii.gz", gray[..., None], affine)
            write_volume(staged / "labels" / f"{name}.nii.gz", mask[..., None], affine)
            scans.append({
                "case": name, "image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz", "label_slices": [0],
                "patient": patient or name, "slices": [{"hemorrhage": int(mask.any())}],
            })  # fmt: skip
        counts = fold_scans(scans, fold_tolerance, warn)
        write_datalist(staged, "SIIM-ACR pneumothorax", scans, license="by agreement with the organizers",
                       finding="pneumothorax", counts=counts)  # fmt: skip
    return counts


def read_outlines(path: Path) -> dict[str, list[list[int]]]:
    """Image -> runs of each of its outlines; none for an X-ray without pneumothorax.

    Raises:
        IchsegError: the table is missing, or another one; the line is named.
    """
    if not path.is_file():
        raise IchsegError(f"{path}: file not found; the folder must hold {TABLE} and {FOLDER}/")
    found: dict[str, list[list[int]]] = {}
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        if [word.strip() for word in next(reader, [])] != ["ImageId", "EncodedPixels"]:
            raise IchsegError(f"{path}: line 1: the heading must be ImageId,EncodedPixels")
        for number, row in enumerate(reader, start=2):
            if not row:
                continue
            words = row[1].split() if len(row) == 2 else []
            runs = found.setdefault(row[0].strip(), [])
            if words == [NONE]:
                continue
            if not words or len(words) % 2 or not all(word.isdigit() for word in words):
                raise IchsegError(f"{path}: line {number}: expected an image and pairs of start and length, or -1")
            runs.append([int(word) for word in words])
    return found


def decoded(runs: list[int], shape: tuple[int, ...], name: str) -> np.ndarray:
    """Runs down the columns, each start counted from the end of the run before -> (columns, rows) uint8.

    Raises:
        IchsegError: they reach beyond the X-ray.
    """
    flat = np.zeros(int(np.prod(shape)), np.uint8)
    at = 0
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        at += start
        if at + length > len(flat):
            raise IchsegError(f"{name}: an outline reaches beyond the {shape[0]} x {shape[1]} pixels of its X-ray")
        flat[at : at + length] = 1
        at += length
    return flat.reshape(shape)


def _read(file: Path) -> tuple[np.ndarray, str, tuple[float, float]]:
    """Gray levels (columns, rows) int16, the patient, mm across and down."""
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(file))
        array = SimpleITK.GetArrayFromImage(image)
    except RuntimeError as error:
        raise IchsegError(
            f"{file}: not a DICOM image that can be read ({' '.join(str(error).split())[-80:]})"
        ) from None
    if array.size != np.prod(array.shape[-2:]):
        raise IchsegError(f"{file}: expected one gray image, found shape {array.shape}")
    across, down = image.GetSpacing()[:2]  # of the patient or of the detector, whichever the file tells
    patient = image.GetMetaData(PATIENT).strip() if image.HasMetaDataKey(PATIENT) else ""
    return array.reshape(array.shape[-2:]).T.astype(np.int16), patient, (across, down)
