"""A table that names scans, in place of a folder."""

from __future__ import annotations

import csv
from pathlib import Path

from ichseg.errors import IchsegError

COLUMN = "image"
ENDINGS = (".csv", ".parquet")


def is_manifest(path: Path) -> bool:
    """True for a file that names scans."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def read_manifest(path: Path) -> list[Path]:
    """The files in a table's column ``image``, relative ones below the table's folder; each once, in its order.

    Args:
        path: ``.csv`` with a line of headings, or ``.parquet`` (needs pyarrow).

    Raises:
        IchsegError: no such column, an empty cell, nothing in it, or not a table.
    """
    names = _of_parquet(path) if path.suffix.lower() == ".parquet" else _of_csv(path)
    found: dict[Path, None] = {}
    for number, name in enumerate(names, 2):
        if not name or not name.strip():
            raise IchsegError(f"{path}: row {number} has no '{COLUMN}'")
        found[path.parent / name.strip()] = None  # an absolute name stays as it is
    if not found:
        raise IchsegError(f"{path}: names no scan")
    return list(found)


def _of_csv(path: Path) -> list[str | None]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if COLUMN not in (rows.fieldnames or ()):
                raise IchsegError(f"{path}: no column '{COLUMN}'; it has {', '.join(rows.fieldnames or ['none'])}")
            return [row[COLUMN] for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise IchsegError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _of_parquet(path: Path) -> list[str | None]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise IchsegError(f"{path}: Parquet needs a package: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if COLUMN not in names:
                raise IchsegError(f"{path}: no column '{COLUMN}'; it has {', '.join(names)}")
            return [None if v is None else str(v) for v in file.read([COLUMN]).column(COLUMN).to_pylist()]
    except (ArrowException, OSError) as error:
        raise IchsegError(f"{path}: not a Parquet file ({error})") from None
