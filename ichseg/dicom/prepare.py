"""DICOM studies with a table of slice labels -> an ichseg data folder, by the same rules as a folder run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.data.label_table import read_instance_table
from ichseg.defaults import FOLD_TOLERANCE
from ichseg.dicom.choice import BEST
from ichseg.dicom.extra import dicom_package
from ichseg.dicom.headers import read_dataset
from ichseg.dicom.listing import SCANS, list_series, stack_of, write_scan
from ichseg.errors import IchsegError, ScanError
from ichseg.io import staged_folder
from ichseg.io.urls import DICOM


def prepare_dicom(
    source: str | Path,
    table: str | Path,
    output: str | Path,
    series: str = BEST,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert the labeled series into ``scans/``, ``slice_labels.csv`` and ``datalist.json``.

    Patients are numbered: scans with one PatientID stay in one fold, and the identifier itself is not written.

    Args:
        source: folder, DICOM file or zip archive.
        table: CSV with columns ``SOPInstanceUID`` and ``hemorrhage`` (0 or 1), one row per image.
        output: a new or empty folder; it appears only when everything has been converted.
        series: of each study, see :func:`ichseg.dicom.choose`; ``"all"`` takes every series that has labels.
        progress: wraps the iteration over files and over scans.
        warn: told, one line each, what is left out and why.
        fold_tolerance: see :func:`ichseg.data.assign_folds`.

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: no series has a label for each of its images, or the table is another.
    """
    dicom_package("pydicom", "reading DICOM")
    source, table, output = Path(source), Path(table), Path(output)
    if not source.exists():
        raise IchsegError(f"{source}: no such file or folder")
    labels = read_instance_table(table)
    made: list[dict[str, Any]] = []
    patients: dict[str, int] = {}
    with staged_folder(output) as staged:
        root = str(source if source.is_dir() else source.parent)
        for entry in progress(list_series([source], root, staged, series, progress)):
            name = entry["case"]
            if "broken" in entry or "skip" in entry:
                warn(f"{entry['broken']}; left out" if "broken" in entry else f"{name}: {entry['skip']}; left out")
                continue
            stack = stack_of(entry[DICOM])
            lacking = [one for one in stack.instances if one.uid not in labels]
            if stack.first.frame is not None:
                warn(
                    f"{name}: an enhanced multi-frame file, whose images have no SOPInstanceUID of their own; left out"
                )
            elif len(lacking) == len(stack.instances):
                warn(f"{name}: no label in {table.name}; left out")
            elif lacking:
                warn(f"{name}: {len(lacking)} of {len(stack.instances)} images have no label in {table.name}, such as "
                     f"{lacking[0].source.name}; left out")  # fmt: skip
            else:
                try:
                    doubts = write_scan(entry)
                except ScanError as error:
                    warn(f"{error}; {name} left out")
                    continue
                for doubt in (*stack.doubts, *doubts):
                    warn(f"{name}: {doubt}")
                header = read_dataset(stack.first.source, pixels=False, only=("SOPClassUID", "PatientID"))
                patient = str(header.get("PatientID") or f"case {name}")
                number = patients.setdefault(patient, len(patients) + 1)
                rows = [{"slice_number": n, "hemorrhage": labels[one.uid]} for n, one in enumerate(stack.instances, 1)]
                made.append({
                    "case": name, "patient": f"patient_{number:04d}",
                    "image": f"{SCANS}/{name}.nii.gz", "slices": rows,
                })  # fmt: skip
        if not made:
            raise IchsegError(f"{source}: no series has a label for each of its images in {table}")
        counts = fold_scans(made, fold_tolerance, warn)
        write_datalist(staged, source.name, made, counts=counts)
    return counts
