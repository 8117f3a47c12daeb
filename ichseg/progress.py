"""How far long work has come: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)
LINE_SECONDS = 60.0


def never_stop_printing() -> None:
    """What a terminal cannot show, such as some file names, is printed as escapes instead of ending the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


class Progress:
    """Counts the scans that are done, as a context.

    Args:
        total: how many there are.
        what: what is done.
        leave: False takes the bar away at the end.
    """

    def __init__(self, total: int | None, what: str | None = None, leave: bool = True) -> None:
        self.total, self.what, self.done = total, what, 0
        self.next = time.monotonic() + LINE_SECONDS
        self.bar = tqdm(total=total, desc=what, unit="scan", leave=leave, disable=None)  # None: only on a terminal

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self) -> None:
        """One more is done."""
        self.done += 1
        self.bar.update()
        if self.bar.disable and time.monotonic() > self.next:
            self.next = time.monotonic() + LINE_SECONDS
            of = "" if self.total is None else f" of {self.total}"
            logger.info("%s%d%s scans", f"{self.what}: " if self.what else "", self.done, of)


def progress(items: Iterable[Any], what: str | None = None, leave: bool = True) -> Iterator[Any]:
    """Pass ``items`` on and show how far it has come."""
    with Progress(len(items) if isinstance(items, Collection) else None, what, leave) as shown:
        for item in items:
            yield item
            shown.update()
