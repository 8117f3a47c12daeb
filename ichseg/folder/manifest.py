"""A table that names scans, in place of a folder."""

from __future__ import annotations

import csv
from pathlib import Path

from ichseg.errors import IchsegError
from ichseg.folder.results import parquet_package
from ichseg.io.urls import is_url

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
    return [path.parent / name for name in names_in(path)]  # an absolute name stays as it is


def names_in(path: Path) -> list[str]:
    """The names in a table's column ``image``, as they are written; each once.

    Raises:
        IchsegError: see :func:`read_manifest`.
    """
    found: dict[str, None] = {}
    for number, name in enumerate(_of_parquet(path) if path.suffix.lower() == ".parquet" else _of_csv(path), 2):
        if not name or not name.strip():
            raise IchsegError(f"{path}: row {number} has no '{COLUMN}'")
        found[name.strip()] = None
    if not found:
        raise IchsegError(f"{path}: names no scan")
    return list(found)


def names_urls(path: Path) -> bool:
    """True for a table of URLs.

    Raises:
        IchsegError: see :func:`read_manifest`; or it names both URLs and files.
    """
    kinds = {is_url(name) for name in names_in(path)}
    if len(kinds) > 1:
        raise IchsegError(f"{path}: names URLs and files of this machine; use a table for each")
    return kinds == {True}


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
    pyarrow, parquet = parquet_package(path)
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if COLUMN not in names:
                raise IchsegError(f"{path}: no column '{COLUMN}'; it has {', '.join(names)}")
            return [None if v is None else str(v) for v in file.read([COLUMN]).column(COLUMN).to_pylist()]
    except (pyarrow.ArrowException, OSError) as error:
        raise IchsegError(f"{path}: not a Parquet file ({error})") from None
