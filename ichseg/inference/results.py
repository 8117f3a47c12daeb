"""One row per scan, for people (``results.csv``) and for programs (``results.jsonl``)."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from ichseg.io import write_text

COLUMNS = ("case", "status", "volume_ml", "lesions", "seconds", "stage", "message", "file")


class Results:
    """The rows of a run, written anew after each one, so that what is there is always whole.

    A row has ``case``; ``status``: ``ok``, ``flagged`` (done, with doubts) or ``failed``; ``volume_ml`` and ``lesions``
    if a mask was made; ``seconds``; for a failure the ``stage`` (``list``, ``read``, ``network`` or ``mask``);
    ``message``: the reason or the flags; ``file``: the scan.

    Args:
        folder: where ``results.csv`` and ``results.jsonl`` go.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Add a row and write both files."""
        self.rows.append(row)
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for each in self.rows:
            writer.writerow({name: _cell(value) for name, value in each.items()})
        write_text(self.folder / "results.csv", table.getvalue())
        lines = [json.dumps(each, ensure_ascii=False) for each in self.rows]
        write_text(self.folder / "results.jsonl", "\n".join(lines) + "\n")

    def count(self, status: str) -> int:
        """How many rows have a status."""
        return sum(row["status"] == status for row in self.rows)

    def summary(self) -> str:
        """``3 failed, 2 flagged, 10 ok``."""
        counts = Counter(row["status"] for row in self.rows)
        return ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))


def _cell(value: Any) -> Any:
    """A cell that starts like a formula is text, not a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
