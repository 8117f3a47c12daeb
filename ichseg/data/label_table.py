"""Tables of slice labels as spreadsheets write them: read where there is one meaning, refused where there is not."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

from ichseg.errors import IchsegError

COLUMNS, PATIENT = ("case", "slice_number", "hemorrhage"), "patient"
INSTANCE_COLUMNS = ("sopinstanceuid", "hemorrhage")  # in small letters, as all headings are compared
PATIENT_NAMES = ("patient_id", "patientid", "patient_number", "subject", "subject_id")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
YES_NO = {"yes": 1, "true": 1, "no": 0, "false": 0}


def read_label_table(path: Path) -> tuple[dict[str, dict[int, int]], dict[str, str]]:
    """Slice labels, case -> slice number -> 0 or 1, and the patient of each case.

    Separated by commas, semicolons or tabs; UTF-8 or, with a byte order mark, UTF-16; spaces around values, capitals in
    headings and numbers such as ``1.0`` are taken for what they mean.

    Args:
        path: CSV with columns ``case``, ``slice_number`` and ``hemorrhage``, and perhaps ``patient``.

    Raises:
        IchsegError: names the file, the line, and what was found there.
    """
    labels: dict[str, dict[int, int]] = {}
    patients: dict[str, str] = {}
    for line, row in _rows(path, COLUMNS):
        case = row["case"]
        if not case:
            raise IchsegError(f"{path}: line {line}: case is empty")
        number = _whole(path, line, "slice_number", row["slice_number"])
        label = _label(path, line, row["hemorrhage"])
        if number in labels.get(case, {}):
            raise IchsegError(f"{path}: line {line}: slice {number} of case '{case}' appears twice")
        labels.setdefault(case, {})[number] = label
        patient = re.sub(r"(?<=\d)\.0+$", "", row.get(PATIENT, ""))  # 7.0 is patient 7
        if patient and patients.setdefault(case, patient) != patient:
            raise IchsegError(f"{path}: line {line}: case '{case}' is of patient {patients[case]} and of {patient}")
    # A patient may stand in one row of a case alone, as in cells that were merged.
    return labels, {case: patients.get(case, case) for case in labels}


def read_instance_table(path: Path) -> dict[str, int]:
    """Labels of DICOM images: SOPInstanceUID -> 0 or 1; written as in :func:`read_label_table`.

    Args:
        path: CSV with columns ``SOPInstanceUID`` and ``hemorrhage``.

    Raises:
        IchsegError: names the file, the line, and what was found there.
    """
    labels: dict[str, int] = {}
    for line, row in _rows(path, INSTANCE_COLUMNS):
        uid = row[INSTANCE_COLUMNS[0]]
        if not uid:
            raise IchsegError(f"{path}: line {line}: SOPInstanceUID is empty")
        if uid in labels:
            raise IchsegError(f"{path}: line {line}: {uid} appears twice")
        labels[uid] = _label(path, line, row["hemorrhage"])
    return labels


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line, column -> value) of every row that is not empty; there is at least one."""
    text = _text(path)
    lines, first_line = text.splitlines(), 1
    if lines and re.fullmatch(r"\W*sep=.\s*", lines[0]):  # how Excel is told the separator
        text, lines = text.split("\n", 1)[-1], lines[1:]
        first_line = 2
    heading = next((line for line in lines if line.strip()), "")
    if not heading:
        raise IchsegError(f"{path}: the table is empty")
    separator = max(SEPARATORS, key=heading.count)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True))
    first = next(number for number, row in enumerate(rows) if any(cell.strip() for cell in row))
    names = [cell.strip().lower().replace(" ", "_") for cell in rows[first]]
    names = [PATIENT if name in PATIENT_NAMES else name for name in names]
    for column in (*columns, PATIENT):
        if column != PATIENT and column not in names:
            raise IchsegError(
                f"{path}: line {first + first_line}: no column '{column}'; found {', '.join(names)} (separated by "
                f"{SEPARATORS[separator]}); the heading must be {','.join(columns)}"
            )
        if names.count(column) > 1:
            raise IchsegError(f"{path}: line {first + first_line}: two columns are called '{column}'")
    found: list[tuple[int, dict[str, str]]] = []
    for line, cells in enumerate(rows[first + 1 :], start=first + first_line + 1):
        if not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(names) :]):
            raise IchsegError(f"{path}: line {line}: {len(cells)} values, but the heading has {len(names)} columns")
        if len(cells) < len(names) and any(names[n] in columns for n in range(len(cells), len(names))):
            raise IchsegError(f"{path}: line {line}: {len(cells)} values, but the heading has {len(names)} columns")
        found.append((line, dict(zip(names, (cell.strip() for cell in cells), strict=False))))
    if not found:
        raise IchsegError(f"{path}: the table is empty")
    return found


def _label(path: Path, line: int, text: str) -> int:
    label = YES_NO.get(text.lower())
    label = _whole(path, line, "hemorrhage", text) if label is None else label
    if label not in (0, 1):
        raise IchsegError(f"{path}: line {line}: hemorrhage must be 0 or 1, not '{text}'")
    return label


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise IchsegError(f"{path}: file not found") from None
    except OSError as error:
        raise IchsegError(f"{path}: cannot be read ({error.strerror})") from None
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise IchsegError(f"{path}: line {line}: not {encoding.removesuffix('-sig').upper()} (a byte "
                          f"{data[error.start]:#04x}); save the table as CSV UTF-8") from None  # fmt: skip
    if "\0" in text:
        raise IchsegError(f"{path}: not a text file; save the table as CSV UTF-8")
    return text


def _whole(path: Path, line: int, column: str, text: str) -> int:
    """A whole number, also as a spreadsheet writes it: ``1.0``, or ``1,0`` where commas do not separate."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value != int(value):
        raise IchsegError(f"{path}: line {line}: {column} must be a whole number, not '{text}'")
    return int(value)
