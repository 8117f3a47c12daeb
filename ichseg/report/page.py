"""``report.html``: one file to look at, without network; and ``report.json``, what made it."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ichseg.folder.parts import CASES, PAGE
from ichseg.folder.results import readable
from ichseg.io import atomic_path, write_text
from ichseg.io.folder import MASK_POSTFIXES
from ichseg.report.survey import DONE, ORDER, TOLD, Survey
from ichseg.version import __version__

VIEWER = Path(__file__).resolve().parent / "viewer"
PACKAGES = ("torch", "monai", "nibabel", "numpy", "scipy")
# Column -> heading, and whether it holds numbers.
HEADINGS = {
    "case": ("scan", False), "status": ("status", False), "probability": ("probability", True),
    "priority": ("priority", True), "subtypes": ("subtypes", False), "unusual": ("unusual", True),
    "volume_ml": ("mL", True), "lesions": ("lesions", True),
    "largest_ml": ("largest mL", True), "largest_slice": ("slice", True), "side": ("side", False),
    "a_cm": ("A cm", True), "b_cm": ("B cm", True), "c_cm": ("C cm", True), "abc2_ml": ("ABC/2 mL", True),
    "seconds": ("s", True), "message": ("message", False),
}  # fmt: skip
# What a heading says to who points at it; else the name of the column in results.csv.
MEANINGS = {
    "probability": "probability that the scan shows hemorrhage", "priority": "1: look at it first",
    "unusual": "how unlike the training scans it looks, in standard deviations; flagged above 3",
    "largest_slice": "the slice with the most hemorrhage, counted from 1", "seconds": "seconds for this scan",
}  # fmt: skip
# Title and style of what stands on top.
ATTENTION = dict(zip(TOLD, (("Failed: no mask", ""), ("Flagged: review before use", " doubts")), strict=True))
PAGE_SCANS = 40  # with pictures and volumes, about half a megabyte each


class FolderReport:
    """Write ``report.html`` and ``report.json`` when a folder run has ended; see :func:`write_report`.

    Args:
        output_dir: folder of the run's outputs.
        enabled: False writes ``report.json`` alone and removes the page of an earlier run.
        limit_mb: size of the page from which on volumes are left out of it.
    """

    def __init__(self, output_dir: str | Path, enabled: bool = True, limit_mb: float = 150.0) -> None:
        self.output_dir, self.enabled, self.limit_mb = Path(output_dir), enabled, limit_mb

    def __call__(self, runner: Any) -> Path | None:
        """Called with the :class:`ichseg.folder.FolderRunner` that has ended; returns the page if there is one."""
        facts = run_facts(runner)
        suffix = "" if runner.journal is None else runner.journal.shard.suffix
        write_text(self.output_dir / f"report{suffix}.json", json.dumps(facts, indent=2, default=str) + "\n")
        if suffix:
            return None
        if not self.enabled:
            _remove_pages(self.output_dir, 1)  # they would show an earlier run
            return None
        return write_report(self.output_dir, runner.results.prioritized(), facts, self.limit_mb)


def merge_report(folder: str | Path, results: Any, limit_mb: float = 150.0) -> Path:
    """Write ``report.html`` and ``report.json`` of a folder whose parts were run apart.

    Args:
        folder: the output folder, with ``report-KofN.json`` of the parts.
        results: the joined :class:`ichseg.folder.Results`.
        limit_mb: as of :func:`write_report`.
    """
    folder = Path(folder)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("report-*of*.json"))]
    facts = dict(parts[-1]) if parts else {"ichseg": __version__, "finished": "", "device": ""}
    facts |= {"parts": len(parts), "seconds": round(sum(part["seconds"] for part in parts), 1),
              "reused": sum(part["reused"] for part in parts),
              "scans": {status: results.count(status) for status in ORDER}}  # fmt: skip
    write_text(folder / "report.json", json.dumps(facts, indent=2, default=str) + "\n")
    return write_report(folder, results.prioritized(), facts, limit_mb)


def run_facts(runner: Any) -> dict[str, Any]:
    """Versions, hashes, settings, device and times of a run."""
    import torch

    device = str(runner.device)
    journal = runner.journal
    return {
        "ichseg": __version__,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(runner.seconds, 1),
        "scans": {status: runner.results.count(status) for status in ORDER},
        "reused": runner.results.reused,
        "device": torch.cuda.get_device_name(runner.device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "run": None if journal is None else journal.run,
        "weights": {} if journal is None else journal.weights,
        "settings": {} if journal is None else journal.settings,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def write_report(
    folder: str | Path, rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any], limit_mb: float = 150.0
) -> Path:
    """Put the page together from the rows and from what ``report_cases`` of the folder keeps of every scan.

    Rows and pieces are read one at a time: memory does not grow with their number. The first page has the table of
    all scans and the images of those most worth looking at; the images of the others, ``PAGE_SCANS`` on each, are on
    ``report-2.html`` and so on. Of an archive, the table has the ``LISTED`` scans most worth looking at, and
    ``PICTURED`` have images (see :mod:`ichseg.report.survey`); every scan is counted.

    Args:
        folder: the output folder; gets ``report.html``.
        rows: of the results, each with its priority.
        facts: of :func:`run_facts`.
        limit_mb: volumes for the viewer are left out from this size of a page on, those without doubts and without
            hemorrhage first.

    Returns:
        the first page.
    """
    folder = Path(folder)
    found = Survey.of(rows)
    pictured = found.pictured.best()
    parts = [pictured[start : start + PAGE_SCANS] for start in range(0, len(pictured), PAGE_SCANS)] or [[]]
    common = _common(found, facts, parts)
    for number in range(len(parts), 0, -1):  # the first page last: it leads to the others
        listed = found.listed.best() if number == 1 else parts[number - 1]
        rest = found.counts.total() - len(listed)
        first = {"attention": _attentions(found), "unlisted": rest} if number == 1 else {}
        values = {**common, "attention": [], "unlisted": 0, **first, **_of_page(listed, parts, number, common)}
        _write_page(folder, values, limit_mb, parts, number)
    _remove_pages(folder, len(parts) + 1)
    for old in folder.glob("report-*.html"):
        if old.name not in {page_name(number + 1) for number in range(len(parts))}:
            old.unlink(missing_ok=True)
    return folder / page_name(1)


def shown_files(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names, within the output folder, of the files that :func:`write_report` reads."""
    return [
        name
        for _, row in Survey.of(rows).pictured.best()
        for name in (f"{CASES}/{row['case']}.json", f"{row['case']}{MASK_POSTFIXES[0]}.nii.gz")
    ]


def page_name(number: int) -> str:
    """``report.html``, ``report-2.html``, ..."""
    return "report.html" if number == 1 else f"report-{number}.html"


def _remove_pages(folder: Path, first: int) -> None:
    """Remove the pages of an earlier run from this number on."""
    for path in folder.glob("report*.html"):
        if (found := PAGE.fullmatch(path.name)) and int(found[1] or 1) >= first:
            path.unlink(missing_ok=True)


def _write_page(
    folder: Path,
    values: Mapping[str, Any],
    limit_mb: float,
    parts: Sequence[Sequence[tuple[int, Mapping[str, Any]]]],
    page: int,
) -> None:
    shown = parts[page - 1]
    with (
        atomic_path(folder / page_name(page)) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        size = 0
        for piece in _pieces(folder, values, parts[page - 1]):
            size += stream.write(piece)
        # Pictures of all scans before the volumes of some: the page shows what is most worth looking at for its size.
        for number, row in shown:
            piece = _volume(folder, number, row)
            if size + len(piece) <= limit_mb * 1e6:
                size += stream.write(piece)
        stream.write(f"<script>{_script('niivue.umd.js')}</script>\n<script>{_script('page.js')}</script>\n")
        stream.write("</body>\n</html>\n")


def _pieces(
    folder: Path, values: Mapping[str, Any], pictured: Sequence[tuple[int, Mapping[str, Any]]]
) -> Iterator[str]:
    environment = Environment(loader=FileSystemLoader(VIEWER), autoescape=True, undefined=StrictUndefined)
    yield from environment.get_template("page.html.jinja").generate(values)
    for number, row in pictured:
        kept = _kept(folder, row)
        if kept is None:
            continue
        about = {"number": number, "case": row["case"], "status": row["status"], "summary": _summary(row)}
        yield _data(f"case-{number}", {**about, "message": row.get("message", "")}, "case")
        yield _data(f"picture-{number}", {"montage": kept["montage"], "numbers": kept.get("numbers", [])})


def _volume(folder: Path, number: int, row: Mapping[str, Any]) -> str:
    kept = _kept(folder, row)
    if kept is None:
        return ""
    mask = folder / kept["volume"].pop("mask_file")
    try:
        packed = base64.b64encode(mask.read_bytes()).decode("ascii")
    except OSError:
        return ""
    return _data(f"volume-{number}", {**kept["volume"], "mask": packed, "mask_name": "mask.nii.gz"})


def _kept(folder: Path, row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["status"] not in DONE:
        return None
    try:
        return json.loads((folder / CASES / f"{row['case']}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _common(
    found: Survey,
    facts: Mapping[str, Any],
    parts: Sequence[Sequence[tuple[int, Mapping[str, Any]]]],
) -> dict[str, Any]:
    """What the template shows on every page; it escapes every text."""
    weights = ", ".join(f"{name} {digest[:12]}" for name, digest in facts.get("weights", {}).items())
    known = [f"ichseg {facts['ichseg']}", facts["finished"], _time(facts), weights]
    columns = [name for name in HEADINGS if name in found.filled]
    return {
        "title": "Intracranial hemorrhage report",
        "css": Markup((VIEWER / "page.css").read_text(encoding="utf-8")),
        "counts": [(status, found.counts[status]) for status in ORDER],
        "bleeding": found.bleeding,
        "facts": [text for text in known if text],
        "names": columns,
        "places": {number: page_name(place) for place, part in enumerate(parts, 1) for number, _ in part},
        "unpictured": sum(found.counts[status] for status in DONE) - sum(map(len, parts)),
        "columns": [
            {"heading": HEADINGS[name][0], "number": HEADINGS[name][1], "meaning": MEANINGS.get(name, name)}
            for name in columns
        ],
    }


def _of_page(
    listed: Sequence[tuple[int, Mapping[str, Any]]],
    parts: Sequence[Sequence[tuple[int, Mapping[str, Any]]]],
    page: int,
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """What the template shows on one page alone."""
    places, columns = common["places"], common["names"]
    return {
        "pages": [
            {"file": page_name(n), "here": n == page, "text": _range(n, len(part))} for n, part in enumerate(parts, 1)
        ],
        "rows": (
            _row(number, row, columns, "" if places.get(number) == page_name(page) else places.get(number, ""),
                 opens=number in places)
            for number, row in listed
        ),
    }  # fmt: skip


def _range(page: int, count: int) -> str:
    """Which scans are on a page, counted from the one most worth looking at: ``41-80``."""
    before = (page - 1) * PAGE_SCANS
    return f"{before + 1}\u2013{before + count}"


def _time(facts: Mapping[str, Any]) -> str:
    """``12.3 s on cpu``, and how much of it is older."""
    told = f"{facts['seconds']} s on {facts['device']}"
    if facts.get("parts"):
        told = f"{facts['parts']} parts, {facts['seconds']} s in total on {facts['device']}"
    if reused := facts.get("reused"):
        told = f"last run: {told}; {reused} scan{'s' if reused > 1 else ''} from earlier runs"
    return told


def _attentions(found: Survey) -> list[dict[str, Any]]:
    return [_attention(found, status, *ATTENTION[status]) for status in TOLD if found.counts[status]]


def _attention(found: Survey, status: str, title: str, style: str) -> dict[str, Any]:
    messages = [(message, _named(count, cases)) for message, (count, cases) in found.said(status)]
    if unsaid := len(found.messages[status]) - len(messages):
        messages.append((f"and {unsaid} other messages; see results.csv", []))
    return {"title": title, "style": style, "count": found.counts[status], "messages": messages}


def _named(count: int, cases: list[str]) -> list[str]:
    return [*cases, f"and {count - len(cases)} more"] if count > len(cases) else cases


def _row(number: int, row: Mapping[str, Any], columns: Sequence[str], page: str, opens: bool) -> dict[str, Any]:
    cells = []
    for name in columns:
        value = row.get(name)
        shown = "" if value is None else f"{value:.2f}" if isinstance(value, float) else readable(value)
        style = f"status-{row['status']}" if name == "status" else "number" if HEADINGS[name][1] else name
        cells.append({"style": style, "text": shown})
    return {"number": number, "opens": opens, "cells": cells, "page": page, "name": readable(row["case"])}


def _summary(row: Mapping[str, Any]) -> str:
    if not row.get("lesions"):
        return "no hemorrhage found"
    told = [f"{row['volume_ml']:.1f} mL in {row['lesions']} lesion{'s' if row['lesions'] > 1 else ''}"]
    told.append(f"largest {row['largest_ml']:.1f} mL, ABC/2 {row['abc2_ml']:.1f} mL "
                f"({row['a_cm']} x {row['b_cm']} x {row['c_cm']} cm)")  # fmt: skip
    if row.get("side"):
        told.append(f"side: {row['side']}")
    told.append(f"largest area on slice {row['largest_slice']}")
    if row.get("over_60_ml") or row.get("over_30_ml"):
        told.append("over 60 mL" if row["over_60_ml"] else "over 30 mL")
    return "; ".join(told)


def _data(name: str, value: Mapping[str, Any], kind: str = "") -> str:
    """JSON inside the page; no text in it can end the element it stands in."""
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}" class="{kind}">{text}</script>\n'


def _script(name: str) -> str:
    return (VIEWER / name).read_text(encoding="utf-8").replace("</script", "<\\/script")
