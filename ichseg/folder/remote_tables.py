"""Progress and tables of an output folder in object storage."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ichseg.errors import IchsegError
from ichseg.folder.elsewhere import Elsewhere, fetch_all, pieces
from ichseg.folder.parts import merge_parts
from ichseg.folder.results import Results
from ichseg.folder.status import Part
from ichseg.folder.store import Store

TOLD = re.compile(r"results[^/]*\.jsonl|report[^/]*\.json")  # what status and merge read


@contextmanager
def brought_here(url: str) -> Iterator[tuple[Path, Elsewhere]]:
    """The tables and journals of an output folder in object storage, in a folder here.

    Yields:
        the folder, gone afterward; and the one in storage.
    """
    with tempfile.TemporaryDirectory(prefix="ichseg-") as folder:
        here, elsewhere = Path(folder), Elsewhere(store := Store(url), store.files())
        tables = [name for name in elsewhere.files if TOLD.fullmatch(name)]
        fetch_all(elsewhere, tables, here, "fetching tables")
        fetch_all(elsewhere, pieces(elsewhere.files), here, "fetching the journal", as_journal=True)
        try:
            yield here, elsewhere
        except IchsegError as error:
            raise IchsegError(str(error).replace(str(here), url)) from None


def merge_remote(url: str, parquet: bool = False) -> tuple[Results, list[Part]]:
    """:func:`ichseg.folder.merge_parts` of an output folder in object storage, and its report."""
    from ichseg.report import merge_report
    from ichseg.report.page import shown_files

    with brought_here(url) as (here, elsewhere):
        results, unfinished = merge_parts(here)
        fetch_all(elsewhere, shown_files(results.rows), here, "fetching images for the report")
        merge_report(here, results)
        if parquet:
            results.write_parquet()
        # Not the tables of parts: they may have grown meanwhile.
        names = ["results.csv", "results.jsonl", "report.json", *(["results.parquet"] if parquet else [])]
        elsewhere.send(here, [*names, *sorted(path.name for path in here.glob("report*.html"))])
    return results, unfinished
