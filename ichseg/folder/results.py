"""One row per scan, for people (``results.csv``) and for programs (``results.jsonl``)."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.io import atomic_path, write_text
from ichseg.metrics.measures import MEASURES

NOTE = "note: "  # before what is good to know and no reason to look at a scan
STATUSES = ("failed", "skipped", "flagged", "ok")
# How likely the scan shows hemorrhage, which subtypes, how unlike the training scans it is; and its place in the order
# of the first.
SCORES, PRIORITY = ("probability", "subtypes", "unusual"), "priority"
COLUMNS = (
    "case",
    "status",
    "probability",
    PRIORITY,
    "subtypes",
    "unusual",
    *MEASURES,
    "seconds",
    "reused",
    "stage",
    "message",
    "file",
)
TEXT_COLUMNS = ("case", "status", "probability", *MEASURES[:-2], "message")
# Writing the tables may take this share of a run's time, not more: they grow with it.
WRITING_SHARE = 0.05
ROWS_AT_ONCE = 10_000


class Results:
    """The rows of a run, in the order of its cases; both files are written anew, so that what is there is always whole.

    A row has ``case``; ``status``: ``ok``, ``flagged`` (done, with doubts), ``failed`` or ``skipped`` (no scan, such as
    an earlier mask); ``probability``, ``priority``, ``subtypes`` and ``unusual``, if the weights give them; what
    :func:`ichseg.metrics.measure_mask` measures, if a mask was made; ``seconds``; ``reused`` if
    an earlier run had done it; for a failure the ``stage`` (``list``, ``read``, ``network``, ``mask`` or ``write``);
    ``message``: the reason or the flags; ``file``: the scan.

    Args:
        folder: where ``results.csv`` and ``results.jsonl`` go.
        order: the cases' files, in the order of the rows; None keeps the order of coming.
        name: of both files, without the ending.
        scored: False where no network has seen the scans: no columns for what it says.
    """

    def __init__(
        self, folder: str | Path, order: Sequence[str] | None = None, name: str = "results", scored: bool = True
    ) -> None:
        self.folder, self.name, self.scored = Path(folder), name, scored
        self._place = None if order is None else {file: place for place, file in enumerate(order)}
        self._rows: list[dict[str, Any]] = []
        self._written, self._took = 0.0, 0.0

    @property
    def path(self) -> Path:
        """The table for people."""
        return self.folder / f"{self.name}.csv"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, in order."""
        place = self._place
        return self._rows if place is None else sorted(self._rows, key=lambda row: place[row["file"]])

    def add(self, row: dict[str, Any], write: bool = True) -> None:
        """Add a row; the files follow at once, or a little later where they have become long."""
        self._rows.append(row)
        if write and time.monotonic() - self._written > self._took / WRITING_SHARE:
            self.write()

    def write(self) -> None:
        """Write both files."""
        started = time.monotonic()
        rows = prioritized(self.rows)
        table = io.StringIO()
        columns = [name for name in COLUMNS if self.scored or name not in (*SCORES, PRIORITY)]
        writer = csv.DictWriter(table, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for each in rows:
            writer.writerow({name: _cell(value) for name, value in each.items()})
        write_text(self.path, _encodable(table.getvalue()))
        write_text(self.folder / f"{self.name}.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
        self._written = time.monotonic()
        self._took = self._written - started

    def write_parquet(self) -> Path:
        """Write ``results.parquet``: the columns of the table, numbers as numbers, and null where there is nothing.

        Returns:
            the file.

        Raises:
            IchsegError: pyarrow is not installed.
        """
        pyarrow, parquet = parquet_package(self.folder)
        kinds = {"lesions": pyarrow.int64(), "largest_slice": pyarrow.int64(), PRIORITY: pyarrow.int64(),
                 "reused": pyarrow.bool_(), **{name: pyarrow.bool_() for name in MEASURES[-2:]}}  # fmt: skip
        kinds |= {name: pyarrow.string() for name in ("case", "status", "subtypes", "side", "stage", "message", "file")}
        schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in COLUMNS])
        path = self.folder / f"{self.name}.parquet"
        with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            rows = prioritized(self.rows)
            for start in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[start : start + ROWS_AT_ONCE]
                columns = {name: [_plain_cell(row.get(name)) for row in some] for name in COLUMNS}
                writer.write_table(pyarrow.table(columns, schema))
        return path

    def count(self, status: str) -> int:
        """How many rows have a status."""
        return sum(row["status"] == status for row in self._rows)

    def summary(self) -> str:
        """``3 failed, 2 flagged, 10 ok (8 of them reused)``."""
        counts = Counter(row["status"] for row in self._rows)
        text = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "no scans"
        reused = sum(bool(row.get("reused")) for row in self._rows)
        return f"{text} ({reused} reused from an earlier run)" if reused else text

    def text(self) -> str:
        """The rows as a table to read, without columns that nobody filled."""
        shown = [name for name in TEXT_COLUMNS if any(row.get(name) not in (None, "") for row in self._rows)]
        lines = [[*shown], *([str(_cell(row.get(name, ""))) for name in shown] for row in self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(shown))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def parquet_package(what: str | Path) -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Args:
        what: needs them.

    Raises:
        IchsegError: not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise IchsegError(f'{what}: Parquet needs a package: pip install "ichseg[parquet]"') from None
    return pyarrow, parquet


def prioritized(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with its place in the order of probability and volume; 1: to be looked at first."""
    known = [place for place, row in enumerate(rows) if isinstance(row.get("probability"), int | float)]
    known.sort(key=lambda place: (-rows[place]["probability"], -(rows[place].get("volume_ml") or 0)))
    order = {place: number for number, place in enumerate(known, 1)}
    return [{**row, PRIORITY: order[place]} if place in order else dict(row) for place, row in enumerate(rows)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``results.jsonl``; none if it is not there, and what is no row is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if is_row(row):
                rows.append(row)
    return rows


def is_row(row: Any) -> bool:
    """True if something read from a file is a row of results as they are written."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("case", "file", "status")):
        return False
    if row["status"] not in STATUSES or not isinstance(row.get("message", ""), str):
        return False
    numbers = [name for name in MEASURES if name.endswith(("_ml", "_cm", "lesions", "_slice")) and "over" not in name]
    needed = numbers if row.get("lesions") else ("volume_ml", "lesions")
    return row["status"] in STATUSES[:2] or all(isinstance(row.get(name), int | float) for name in needed)


def _cell(value: Any) -> Any:
    """Yes or no in words; a cell that starts like a formula is text, not a formula."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):  # probabilities by name
        return ", ".join(f"{name} {share:.2f}" for name, share in value.items())
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


def _plain_cell(value: Any) -> Any:
    """A cell of a Parquet file: probabilities by name as JSON, and names that are not UTF-8 in a readable form."""
    if isinstance(value, dict):
        return json.dumps(value)
    return _encodable(value) if isinstance(value, str) else value


def _encodable(text: str) -> str:
    """File names that are no UTF-8 keep their bytes visible."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
