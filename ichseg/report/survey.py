"""What a report says of all rows, which are looked at once and one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ichseg.folder.results import NOTE, readable

ORDER = ("failed", "flagged", "ok", "skipped")  # of interest
TOLD = ("failed", "flagged")  # whose messages stand on top
DONE = ("ok", "flagged")
# Of an archive, the scans most worth looking at: no browser shows a table of a million rows.
PICTURED, LISTED = 1000, 5000
NAMED = 100  # scans with the same message, by name


class MostInteresting:
    """Some of many rows, with their numbers: flagged ones first, then by volume, then by probability."""

    def __init__(self, most: int) -> None:
        self.most, self._pairs = most, list[tuple[int, Mapping[str, Any]]]()

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        """One more row."""
        self._pairs.append((number, row))
        if len(self._pairs) > 2 * self.most:
            self._pairs = self.best()

    def best(self) -> list[tuple[int, Mapping[str, Any]]]:
        """Those most worth looking at, in this order."""

        def interest(pair: tuple[int, Mapping[str, Any]]) -> tuple[float, ...]:
            row = pair[1]
            return ORDER.index(row["status"]), -(row.get("volume_ml") or 0), -(row.get("probability") or 0)

        return sorted(self._pairs, key=interest)[: self.most]


@dataclass
class Survey:
    """What a report says of all rows.

    Attributes:
        counts: by status.
        bleeding: scans with hemorrhage.
        filled: columns that somebody filled.
        messages: status -> message -> how many scans, and the names of the first.
        listed, pictured: rows in the table, and those with images.
    """

    counts: Counter[str] = field(default_factory=Counter)
    bleeding: int = 0
    filled: set[str] = field(default_factory=lambda: {"status"})
    messages: dict[str, dict[str, tuple[int, list[str]]]] = field(
        default_factory=lambda: {status: {} for status in TOLD}
    )
    listed: MostInteresting = field(default_factory=lambda: MostInteresting(LISTED))
    pictured: MostInteresting = field(default_factory=lambda: MostInteresting(PICTURED))

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Survey:
        """Look at all rows."""
        found = cls()
        for number, row in enumerate(rows):
            found.counts[row["status"]] += 1
            found.bleeding += (row.get("volume_ml") or 0) > 0
            found.filled.update(name for name, value in row.items() if value not in (None, ""))
            found.listed.add(number, row)
            if row["status"] in DONE:
                found.pictured.add(number, row)
            if row["status"] in found.messages:
                found._note(found.messages[row["status"]], row)
        return found

    def said(self, status: str) -> list[tuple[str, tuple[int, list[str]]]]:
        """The messages of a status, in the order in which they came; of more than ``NAMED``, the most common ones."""
        every = list(self.messages[status].items())
        return every if len(every) <= NAMED else sorted(every, key=lambda pair: -pair[1][0])[:NAMED]

    @staticmethod
    def _note(messages: dict[str, tuple[int, list[str]]], row: Mapping[str, Any]) -> None:
        message = row.get("message", "").removeprefix(f"{Path(row['file']).name}: ")
        message = "; ".join(part for part in message.split("; ") if not part.startswith(NOTE)) or message
        count, cases = messages.get(readable(message), (0, []))
        if count < NAMED:
            cases.append(readable(row["case"]))
        messages[readable(message)] = count + 1, cases
