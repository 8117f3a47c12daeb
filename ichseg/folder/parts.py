"""The tables of a folder's parts as one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.folder.ondisk import Table
from ichseg.folder.results import Results, is_row, read_rows
from ichseg.folder.status import FINISHED, NOT_STARTED, Part, read_parts

PART_FILE = re.compile(r"(results-\d+of\d+\.(jsonl|csv|parquet)|report-\d+of\d+\.json)")
CASES = "report_cases"  # the folder of what the page shows of every scan, within the output folder
PAGE = re.compile(r"report(?:-(\d+))?\.html")
PART = re.compile(r"results-(\d+)of(\d+)\.jsonl")


def merge_parts(folder: str | Path) -> tuple[Results, list[Part]]:
    """Join ``results-KofN.jsonl`` of an output folder into ``results.csv`` and ``results.jsonl``.

    At any time: what parts have done so far is joined, and can be joined again later.

    Returns:
        the joined rows, in the order of their files, and the parts that are not finished.

    Raises:
        IchsegError: there are no tables of parts, they belong to different divisions or were made with different
            settings, weights or versions, or one cannot be read.
    """
    folder = Path(folder)
    parts = {
        (int(m[1]), int(m[2])): path for path in folder.glob("results-*.jsonl") if (m := PART.fullmatch(path.name))
    }
    if not parts and (folder / "results.jsonl").is_file():
        raise IchsegError(f"{folder}: was not run in parts; results.csv is complete, nothing to merge")
    if not parts:
        raise IchsegError(f"{folder}: no results-KofN.jsonl here; run 'ichseg segment --shard K/N' first")
    counts = sorted({count for _, count in parts})
    if len(counts) > 1:
        raise IchsegError(f"{folder}: has parts of {' and of '.join(map(str, counts))}; keep only one set of tables")
    states = read_parts(folder, counts[0])
    _check_runs(states, folder)
    lines = Table()
    for _, path in sorted(parts.items()):
        lines.update(_lines(path))
    results = Results(folder)
    for _, line in lines.items():
        results.add(json.loads(line), write=False)
    results.write()
    return results, [part for part in states if part.state != FINISHED]


def rows_of_all(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of ``results.jsonl`` and of tables of parts that are not joined; of the same scan, the newest."""
    tables = [folder / "results.jsonl", *(path for path in folder.glob("results-*.jsonl") if PART.fullmatch(path.name))]
    rows = Table()
    for path in sorted(filter(Path.is_file, tables), key=lambda table: table.stat().st_mtime_ns):
        rows.update((_key(row), json.dumps(row)) for row in read_rows(path))
    for _, row in rows.items():
        yield json.loads(row)


def _key(row: Mapping[str, Any]) -> str:
    """Of a scan: series of one folder, or of one archive, share the file. In the order of files."""
    return f"{row['file']}\0{row['case']}"


def _lines(table: Path) -> Iterator[tuple[str, str]]:
    """The scans of a table, and the row of each as text."""
    with table.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = {}
                if not is_row(row):
                    raise IchsegError(f"{table}: line {number} is not a valid row of results")
                yield _key(row), line


def _check_runs(states: Sequence[Part], folder: Path) -> None:
    """Parts of one whole have one run's hash: settings, weights and version."""
    made: dict[str | None, list[str]] = {}
    for part in states:
        if part.state != NOT_STARTED:
            made.setdefault(part.run, []).append(part.name)
    if None in made:
        raise IchsegError(f"{folder}: part {', '.join(made[None])} has no journal that shows its settings; rerun it")
    if len(made) > 1:
        odd = min(made.values(), key=len)
        raise IchsegError(f"{folder}: part {', '.join(odd)} was made with different settings, weights or version "
                          "than the other parts; rerun it to match them")  # fmt: skip


def remove_parts(folder: str | Path) -> None:
    """Remove the tables of parts: a run of the whole folder has replaced them."""
    for path in Path(folder).glob("*-*of*.*"):
        if PART_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
