"""One row per scan, for people (``results.csv``) and for programs (``results.jsonl``)."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, overload

from ichseg.errors import IchsegError
from ichseg.folder.ondisk import Database, as_bytes
from ichseg.io import atomic_path
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
_TABLES = (
    "CREATE TABLE places (file BLOB PRIMARY KEY, place INTEGER) WITHOUT ROWID",
    "CREATE TABLE rows (place INTEGER, number INTEGER, status TEXT, probability REAL, volume_ml REAL, reused INTEGER, "
    "row TEXT, PRIMARY KEY (place, number)) WITHOUT ROWID",
)
# Which row is to be looked at first: the most likely hemorrhage, then the largest.
_PRIORITIES = """
    SELECT row, priority FROM rows LEFT JOIN (
        SELECT place AS p, number AS n, ROW_NUMBER() OVER (ORDER BY probability DESC, volume_ml DESC, place, number)
        AS priority FROM rows WHERE probability IS NOT NULL
    ) ON p = place AND n = number ORDER BY place, number
"""


class Rows(Sequence[dict[str, Any]]):
    """Rows of :class:`Results`, which stay on disk; going through them holds a few at a time."""

    def __init__(self, database: Database, with_priority: bool = False) -> None:
        self._database, self._with_priority = database, with_priority

    def __len__(self) -> int:
        return int((self._database.one("SELECT COUNT(*) FROM rows") or (0,))[0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self._with_priority:
            for (text,) in self._database.each("SELECT row FROM rows ORDER BY place, number"):
                yield json.loads(text)
            return
        for text, priority in self._database.each(_PRIORITIES):
            row = json.loads(text)
            row.pop(PRIORITY, None)  # of an earlier table
            yield row if priority is None else {**row, PRIORITY: priority}

    def __reversed__(self) -> Iterator[dict[str, Any]]:
        return reversed(list(self))

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        places = range(len(self))[index]
        if isinstance(places, int):
            return next(islice(self, places, None))
        wanted = set(places)
        found = {place: row for place, row in enumerate(self) if place in wanted}
        return [found[place] for place in places]


class Results:
    """The rows of a run, in the order of its cases; both files are written anew, so that what is there is always whole.

    A row has ``case``; ``status``: ``ok``, ``flagged`` (done, with doubts), ``failed`` or ``skipped`` (no scan, such as
    an earlier mask); ``probability``, ``priority``, ``subtypes`` and ``unusual``, if the weights give them; what
    :func:`ichseg.metrics.measure_mask` measures, if a mask was made; ``seconds``; ``reused`` if
    an earlier run had done it; for a failure the ``stage`` (``list``, ``read``, ``network``, ``mask`` or ``write``);
    ``message``: the reason or the flags; ``file``: the scan.

    Memory does not grow with the number of rows.

    Args:
        folder: where ``results.csv`` and ``results.jsonl`` go.
        order: the cases' files, in the order of the rows; None keeps the order of coming.
        name: of both files, without the ending.
        scored: False where no network has seen the scans: no columns for what it says.
    """

    def __init__(
        self, folder: str | Path, order: Iterable[str] | None = None, name: str = "results", scored: bool = True
    ) -> None:
        self.folder, self.name, self.scored = Path(folder), name, scored
        self._database, self._count, self._in_order = Database(*_TABLES), 0, order is not None
        many = ((as_bytes(file), place) for place, file in enumerate(order or ()))
        self._database.add_all("INSERT OR REPLACE INTO places VALUES (?, ?)", many)
        self._written, self._took = 0.0, 0.0

    @property
    def path(self) -> Path:
        """The table for people."""
        return self.folder / f"{self.name}.csv"

    @property
    def parquet_path(self) -> Path:
        """The table for programs that read Parquet."""
        return self.folder / f"{self.name}.parquet"

    @property
    def rows(self) -> Rows:
        """All rows so far, in order."""
        return Rows(self._database)

    def prioritized(self) -> Rows:
        """The rows, each with its place in the order of probability and volume; 1: to be looked at first."""
        return Rows(self._database, with_priority=True)

    def add(self, row: dict[str, Any], write: bool = True) -> None:
        """Add a row; the files follow at once, or a little later where they have become long.

        Raises:
            KeyError: its file is not in the order.
        """
        place: tuple[int, ...] | None = (0,)
        if self._in_order:
            place = self._database.one("SELECT place FROM places WHERE file = ?", (as_bytes(row["file"]),))
        if place is None:
            raise KeyError(row["file"])
        self._count += 1
        scored = (_number(row.get("probability")), _number(row.get("volume_ml")) or 0)
        values = (*place, self._count, row["status"], *scored, bool(row.get("reused")), json.dumps(row))
        self._database.add("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        if write and time.monotonic() - self._written > self._took / WRITING_SHARE:
            self.write()

    def write(self) -> None:
        """Write both files."""
        started = time.monotonic()
        columns = [name for name in COLUMNS if self.scored or name not in (*SCORES, PRIORITY)]
        with (
            atomic_path(self.path) as table_path,
            atomic_path(self.folder / f"{self.name}.jsonl") as lines_path,
            table_path.open("w", encoding="utf-8") as table,
            lines_path.open("w", encoding="utf-8") as lines,
        ):
            writer = csv.DictWriter(_Readable(table), columns, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            for each in self.prioritized():
                writer.writerow({name: _cell(value) for name, value in each.items()})
                lines.write(json.dumps(each) + "\n")
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
        path = self.parquet_path
        with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            rows = iter(self.prioritized())
            while some := list(islice(rows, ROWS_AT_ONCE)):
                columns = {name: [_plain_cell(row.get(name)) for row in some] for name in COLUMNS}
                writer.write_table(pyarrow.table(columns, schema))
        return path

    def count(self, status: str) -> int:
        """How many rows have a status."""
        return self._counted("status = ?", status)

    @property
    def reused(self) -> int:
        """How many rows an earlier run had done."""
        return self._counted("reused")

    def summary(self) -> str:
        """``3 failed, 2 flagged, 10 ok (8 reused from an earlier run)``."""
        counts = self._database.all("SELECT COUNT(*), status FROM rows GROUP BY status ORDER BY status")
        text = ", ".join(f"{number} {status}" for number, status in counts) or "no scans"
        return f"{text} ({self.reused} reused from an earlier run)" if self.reused else text

    def text(self) -> str:
        """The rows as a table to read, without columns that nobody filled."""
        rows = list(self.rows)
        shown = [name for name in TEXT_COLUMNS if any(row.get(name) not in (None, "") for row in rows)]
        lines = [[*shown], *([str(_cell(row.get(name, ""))) for name in shown] for row in rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(len(shown))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)

    def _counted(self, condition: str, *values: str) -> int:
        return int((self._database.one(f"SELECT COUNT(*) FROM rows WHERE {condition}", values) or (0,))[0])


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


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a ``results.jsonl``; none if it is not there, and what is no row is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if is_row(row):
                yield row


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
    return readable(value) if isinstance(value, str) else value


class _Readable:
    """What a CSV writer writes to; file names that are not UTF-8 do not stop it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(readable(text))


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # of a file that somebody edited
        return None


def readable(value: Any) -> str:
    """Text in which bytes that are not UTF-8, as in some file names, are visible."""
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
