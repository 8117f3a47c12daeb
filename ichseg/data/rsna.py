"""RSNA 2019 intracranial hemorrhage detection -> an ichseg data folder.

Flanders et al., Radiology: Artificial Intelligence 2020. One DICOM file per slice, ``ID_<image>.dcm``, and a table
``ID,Label`` with six rows per slice, ``ID_<image>_<subtype>``. Slices of a series are put together by their position.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.data.subtypes import SUBTYPE_NAMES
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError
from ichseg.io import lost_intercept, staged_folder, write_volume

TABLE, FOLDER = "stage_2_train.csv", "stage_2_train"
ANY = "any"
SUBTYPES = {name: short for short, name in SUBTYPE_NAMES.items()}
LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
PATIENT, SERIES, POSITION, ORIENTATION, SPACING = (
    "0010|0020", "0020|000e", "0020|0032", "0020|0037", "0028|0030")  # fmt: skip
# If a step differs from the median by more than this share, slices are missing.
UNEVEN = 0.1


def prepare_rsna(
    source: str | Path,
    output: str | Path,
    scans: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert the labeled slices into ``images/``, ``slice_labels.csv`` and ``datalist.json``.

    Args:
        source: folder that holds ``stage_2_train.csv`` and ``stage_2_train/``.
        output: a new or empty folder; it appears only when everything has been converted.
        scans: no more than so many, in the order of their names; None: all of them.
        progress: wraps the iteration over files and over scans.
        warn: told, one line each, of scans that are left out: a slice that cannot be read, a step that is missing.
        fold_tolerance: see :func:`ichseg.data.assign_folds`.

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: the layout is another, or a file the table names is missing. Nothing is left behind.
    """
    source, output = Path(source), Path(output)
    labels = read_labels(source / TABLE)
    series: dict[str, list[_Slice]] = {}
    for name in progress(sorted(labels)):
        file = source / FOLDER / f"{name}.dcm"
        if not file.is_file():
            raise IchsegError(f"{file}: file not found, but {TABLE} has labels for it")
        one = _Slice(file)
        if one.error:
            warn(f"{file}: {one.error}; left out")
            continue
        series.setdefault(one.series, []).append(one)
    made: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for uid in progress(sorted(series, key=lambda uid: series[uid][0].file.name)):
            if scans is not None and len(made) == scans:
                break
            made += _convert(series[uid], labels, staged, warn)
        if not made:
            raise IchsegError(f"{source / FOLDER}: no series of slices that belong together")
        counts = fold_scans(made, fold_tolerance, warn)
        write_datalist(staged, "RSNA 2019", made, license="non-commercial", doi="10.1148/ryai.2020190211",
                       counts=counts)  # fmt: skip
    return counts


def read_labels(path: Path) -> dict[str, dict[str, int]]:
    """``ID_<image>`` -> ``hemorrhage`` and the subtypes, each 0 or 1.

    Raises:
        IchsegError: the table is missing, or another one; the line is named.
    """
    if not path.is_file():
        raise IchsegError(f"{path}: file not found; the folder must hold {TABLE} and {FOLDER}/")
    labels: dict[str, dict[str, int]] = {}
    names = {**SUBTYPES, ANY: "hemorrhage"}
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        if next(reader, None) != ["ID", "Label"]:
            raise IchsegError(f"{path}: line 1: the heading must be ID,Label")
        for number, row in enumerate(reader, start=2):
            image, _, kind = row[0].rpartition("_") if row else ("", "", "")
            if kind not in names or not image or len(row) != 2 or row[1] not in ("0", "1"):
                raise IchsegError(f"{path}: line {number}: expected ID_<image>_<subtype>,0 or 1, not {','.join(row)}")
            labels.setdefault(image, {})[names[kind]] = int(row[1])  # some rows are there twice
    for image, found in labels.items():
        if lacking := sorted(set(names.values()) - set(found)):
            raise IchsegError(f"{path}: {image} has no row for {lacking[0]}")
    return labels


class _Slice:
    """What a file's header says; ``error`` where it cannot be used."""

    def __init__(self, file: Path) -> None:
        import SimpleITK

        self.file, self.error = file, ""
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
            told = {key: reader.GetMetaData(key).strip() for key in (PATIENT, SERIES, POSITION, ORIENTATION, SPACING)}
            self.patient, self.series = told[PATIENT], told[SERIES]
            self.position, orientation, spacing = (
                np.array([float(value) for value in told[key].split("\\")]) for key in (POSITION, ORIENTATION, SPACING)
            )
            # DICOM: the first direction runs along a row, the second down a column; spacing is rows first.
            self.along, self.down = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
        except (RuntimeError, ValueError) as error:
            self.error = f"not a DICOM slice that can be read ({' '.join(str(error).split())[-80:]})"

    def voxels(self) -> np.ndarray:
        """(columns, rows) HU."""
        import SimpleITK

        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(self.file)))
        return np.asarray(array[0] if array.ndim == 3 else array).T


def _convert(
    slices: list[_Slice], labels: dict[str, dict[str, int]], output: Path, warn: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One scan; none if slices of it are missing or cannot be read."""
    normal = np.cross(slices[0].along, slices[0].down)
    slices = sorted(slices, key=lambda one: float(one.position @ normal))
    name = slices[0].file.stem
    try:
        stack = [one.voxels() for one in slices]
    except RuntimeError as error:
        warn(f"{name}: a slice of its series cannot be read ({' '.join(str(error).split())[-80:]}); scan left out")
        return []
    steps = np.diff([one.position for one in slices], axis=0)
    heights = steps @ normal / np.linalg.norm(normal)
    if len(slices) > 1 and np.abs(heights - np.median(heights)).max() > UNEVEN * abs(float(np.median(heights))):
        warn(f"{name}: slices of its series are missing or duplicated; scan left out")
        return []
    if len({one.shape for one in stack}) > 1:
        warn(f"{name}: slices of different sizes; scan left out")
        return []
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = slices[0].along, slices[0].down, slices[0].position
    # Of a tilted gantry the steps are not along the normal.
    affine[:3, 2] = steps.mean(axis=0) if len(slices) > 1 else 5 * normal / np.linalg.norm(normal)
    volume = np.stack(stack, axis=-1).astype(np.float32)
    offset = lost_intercept(volume)
    hounsfield = np.rint(np.clip(volume - offset, -32768, 32767)).astype(np.int16)
    write_volume(output / "images" / f"{name}.nii.gz", hounsfield, LPS_TO_RAS @ affine)
    rows = [{"slice_number": number, **labels[one.file.stem]} for number, one in enumerate(slices, start=1)]
    scan = {"case": name, "patient": slices[0].patient, "image": f"images/{name}.nii.gz", "slices": rows}
    return [{**scan, "hu_offset": -offset} if offset else scan]
