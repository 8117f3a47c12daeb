"""What the runs of an output folder have come to, read while they go on."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.folder.results import STATUSES, read_rows

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

CHECKING, RUNNING, FINISHED, INTERRUPTED, NOT_STARTED = "checking", "running", "finished", "interrupted", "not started"
_NAMED = re.compile(r"(?:journal|results)-\d+of(\d+)\.jsonl")
LIVELY_S = 300.0  # without locks, a run whose files are older counts as interrupted


@dataclass
class Part:
    """A part of an output folder's cases, or all of them.

    Attributes:
        name: ``"2/4"``, or ``"all"``.
        state: ``not started``, ``checking`` (what an earlier run has done), ``running``, ``finished`` or
            ``interrupted``.
        scans: how many the part has; None if no run has counted them.
        done: status -> scans with a row.
        failed: files of the rows that failed.
        left_s: seconds until its end at the pace so far; None if that cannot be told.
        run: hash of weights, settings and version; None if unknown.
        started: when its last run began, in UTC.
    """

    name: str
    state: str = NOT_STARTED
    scans: int | None = None
    done: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    left_s: float | None = None
    run: str | None = None
    started: str | None = None

    @property
    def missing(self) -> int | None:
        """Scans without a row."""
        return None if self.scans is None else max(self.scans - sum(self.done.values()), 0)


def read_status(folder: str | Path) -> list[Part]:
    """The parts of an output folder in its newest division, or one for a folder that was not run in parts.

    Raises:
        IchsegError: nothing was run there.
    """
    divisions = [[_part(Path(folder), "", "all")], *(read_parts(folder, count) for count in _divisions(Path(folder)))]
    begun = [group for group in divisions if any(part.state != NOT_STARTED for part in group)]
    if not begun:
        raise IchsegError(f"{folder}: no run of 'ichseg segment' has begun here (no journal.jsonl)")
    return max(begun, key=lambda group: max(part.started or "" for part in group))  # the others are of long ago


def read_parts(folder: str | Path, count: int) -> list[Part]:
    """The parts of an output folder that was run in so many, those that were not begun as well."""
    return [_part(Path(folder), f"-{k}of{count}", f"{k}/{count}") for k in range(1, count + 1)]


def _divisions(folder: Path) -> list[int]:
    """How many parts a folder was run in; several numbers if it was run again with another number of parts."""
    found = (_NAMED.fullmatch(path.name) for path in folder.glob("*-*of*.jsonl"))
    return sorted({int(match[1]) for match in found if match})


def _part(folder: Path, suffix: str, name: str) -> Part:
    journal, table = folder / f"journal{suffix}.jsonl", folder / f"results{suffix}.jsonl"
    part, todo, report = Part(name), None, _report(folder / f"report{suffix}.json")
    for line in _about_runs(journal):
        if "started" in line:
            part.started, part.run, part.scans, todo = line["started"], line["run"], None, None
        else:
            part.scans, todo = line["scans"], line["todo"]
    if part.started is None and (not suffix or not table.is_file()):
        return part  # a table of everything without a journal was merged of parts
    part.run = part.run or report.get("run")
    counts, new = Counter[str](), 0
    for row in read_rows(table):
        counts[row["status"]] += 1
        new += not row.get("reused")
        if row["status"] == "failed":
            part.failed.append(row["file"])
    part.done = {status: counts[status] for status in STATUSES if counts[status]}
    if table.is_file() and report.get("run") == part.run and report.get("finished", "") >= (part.started or "-"):
        part.state, part.scans = FINISHED, counts.total()
        return part
    part.state = INTERRUPTED
    if _alive(folder / f".journal{suffix}.lock", journal):
        part.state = CHECKING if todo is None else RUNNING
    if part.state == RUNNING and todo is not None and part.started and new:
        spent = max(table.stat().st_mtime - datetime.fromisoformat(part.started).timestamp(), 0.0)
        part.left_s = max(round((todo - new) * spent / new, 1), 0.0)
    return part


def _about_runs(journal: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal that are about a run and not about a case; most are not looked into."""
    if not journal.is_file():
        return
    with journal.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(('{"run": ', '{"scans": ')):
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if "started" in found or "todo" in found:
                    yield found


def _report(path: Path) -> dict[str, Any]:
    """What the end of a run left; nothing if there was none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _alive(lock: Path, journal: Path) -> bool:
    if fcntl is not None and lock.is_file():
        try:
            with lock.open() as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        except OSError:
            pass  # a file system without locks
    return journal.is_file() and time.time() - journal.stat().st_mtime < LIVELY_S


def status_table(parts: list[Part]) -> str:
    """The parts as a table to read, with a sum below several."""
    lines = [["part", "state", *STATUSES[::-1], "missing", "left"]]
    lines += [
        [part.name, part.state, *(str(part.done.get(status, "")) for status in STATUSES[::-1]),
         "" if part.missing is None else str(part.missing), clock(part.left_s)]
        for part in parts
    ]  # fmt: skip
    if len(parts) > 1:
        every = [sum(part.done.get(status, 0) for part in parts) for status in STATUSES[::-1]]
        missing = [part.missing for part in parts]
        known = "" if None in missing else str(sum(one or 0 for one in missing))
        left = [part.left_s for part in parts if part.state in (CHECKING, RUNNING)]
        longest = None if not left or None in left else max(one or 0.0 for one in left)
        lines.append(["all", "", *map(str, every), known, clock(longest)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def clock(seconds: float | None) -> str:
    """``2:05:10``, or nothing."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def as_values(parts: list[Part]) -> list[dict[str, Any]]:
    """The parts as plain values, ``missing`` included."""
    return [{**asdict(part), "missing": part.missing} for part in parts]
