"""What a folder of scans will cost, from a few of them."""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.bundle import given_values
from ichseg.dicom.choice import BEST
from ichseg.errors import IchsegError
from ichseg.folder.configured import configured_runner
from ichseg.folder.listing import Inputs, list_scans
from ichseg.folder.runner import FolderRunner
from ichseg.io.urls import DICOM

SURE = 2.0  # standard errors on either side of an estimate
HOUR, GIB = 3600.0, 2.0**30
WORKED = ("ok", "flagged")


def estimate(
    scans: Inputs,
    overrides: Mapping[str, Any] | None = None,
    sample: int = 10,
    machines: int = 1,
    price: float = 0.0,
    bundle: str = "ich_segmentation",
    config: str = "inference.yaml",
    settings: Sequence[str] = (),
    imported_s: float = 0.0,
) -> dict[str, Any]:
    """Segment some scans of a folder into a folder that is thrown away, and reckon what all of them take.

    Args:
        scans: as for :func:`ichseg.folder.list_scans`.
        overrides, settings: of the config, see :func:`ichseg.bundle.run_bundle`.
        sample: how many scans to measure, spread evenly over the sizes of the files.
        machines: like this one, that share the work.
        price: of one of them for an hour, in any currency.
        bundle, config: what segments.
        imported_s: seconds that importing took before, which belong to the startup.

    Returns:
        what was measured (``scans``, ``sample``, ``failed``, ``list_s``, ``start_s``, ``scan_s``, ``spread_s``,
        ``peak_mib``, ``input_gib``, ``output_mib_per_scan``) and what follows (``machine_hours`` with ``low`` and
        ``high``, ``hours``, ``cost``, ``output_gib``).

    Raises:
        IchsegError: no scan is there, or none of the sample could be segmented.
    """
    if sample < 1 or machines < 1 or price < 0:
        raise IchsegError("sample and machines must be at least 1, and price must not be negative")
    with tempfile.TemporaryDirectory(prefix="ichseg-estimate-") as folder:
        output, begun = Path(folder), time.perf_counter()
        given = {
            **given_values(bundle, config, {"dataset_dir": scans, **(overrides or {})}, settings),
            "output_dir": output / "first",
        }
        series = str(given.get("series") or BEST)
        cases = [case for case in list_scans(scans, output, series) if not {"skip", "broken"} & case.keys()]
        if not cases:
            raise IchsegError(f"{scans}: no scan to measure")
        listed, sizes = time.perf_counter(), [_bytes(case) for case in cases]
        order = sorted(range(len(cases)), key=lambda number: sizes[number])
        count = min(sample, len(cases))
        chosen = [cases[order[(2 * place + 1) * len(cases) // (2 * count)]] for place in range(count)]
        first = cases[order[len(cases) // 2]]
        for one in (first, *chosen):  # loads the model, and fills caches
            begun_start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):  # what fails is told when it is measured
                tried, _ = _run(bundle, config, given, [one])
            started = time.perf_counter()
            if _done(tried):
                break
        given["output_dir"] = output / "masks"
        runner, measured = _run(bundle, config, given, chosen)
        done = _done(runner)
        if not done:
            raise IchsegError(f"{runner.results.rows[0]['message']}; none of {count} scans could be segmented")
        written = sum(path.stat().st_size for path in (output / "masks").rglob("*") if path.is_file())
        worked, of_all = [took for took, ok in measured if ok], statistics.fmean(took for took, _ in measured)
        mean = statistics.fmean(worked)
        spread = statistics.stdev(worked) if len(worked) > 1 else None
        start = imported_s + max(started - begun_start - mean, 0.0)
        return {
            "scans": len(cases), "sample": count, "failed": count - len(done), "list_s": round(listed - begun, 2),
            "start_s": round(start, 1), "scan_s": round(mean, 3),
            "spread_s": None if spread is None else round(spread, 3),
            "peak_mib": _peak_mib(), "input_gib": round(sum(sizes) / GIB, 3),
            "output_mib_per_scan": round(written / count / 2**20, 3),
            **reckoned(len(cases), of_all, (mean if spread is None else spread) / count**0.5, start, machines, price),
            "output_gib": round(written / count * len(cases) / GIB, 3),
        }  # fmt: skip


def reckoned(
    scans: int, scan_s: float, error_s: float, start_s: float, machines: int = 1, price: float = 0.0
) -> dict[str, Any]:
    """Machine hours, hours and cost of many scans.

    Args:
        scans: how many.
        scan_s, error_s: seconds of a scan and their standard error.
        start_s: seconds until a machine's first scan.
        machines: that share the work.
        price: of a machine for an hour.
    """
    low, middle, high = (
        (scans * max(scan_s + side * SURE * error_s, 0.0) + machines * start_s) / HOUR for side in (-1, 0, 1)
    )
    return {
        "machine_hours": round(middle, 4), "low": round(low, 4), "high": round(high, 4), "machines": machines,
        "hours": round(middle / machines, 4), "price": price, "cost": round(middle * price, 4),
    }  # fmt: skip


def estimate_text(found: Mapping[str, Any]) -> str:
    """The same to read."""
    spread = "" if found["spread_s"] is None else f" (standard deviation {found['spread_s']:.2f})"
    lines = [
        f"{found['scans']} scans, {found['input_gib']:.2f} GiB, listed in {found['list_s']} s",
        f"{found['sample']} measured, {found['failed']} of them failed",
        f"a scan takes {found['scan_s']:.2f} s{spread} and "
        f"{found['output_mib_per_scan']:.2f} MiB of disk, startup {found['start_s']} s, memory "
        f"{found['peak_mib']} MiB",
        f"all scans: {_time(found['machine_hours'])} on one machine like this one "
        f"({_time(found['low'])} to {_time(found['high'])}), {found['output_gib']:.2f} GiB written",
    ]
    if found["machines"] > 1:
        lines.append(f"on {found['machines']} machines: {_time(found['hours'])}")
    if found["price"]:
        lines.append(f"cost at {found['price']:g} per machine-hour: {found['cost']:.3g}")
    return "\n".join(lines)


def _done(runner: FolderRunner) -> list[dict[str, Any]]:
    return [row for row in runner.results.rows if row["status"] in WORKED]


def _run(
    bundle: str, config: str, values: Mapping[str, Any], scans: Sequence[dict[str, Any]]
) -> tuple[FolderRunner, list[tuple[float, bool]]]:
    """A runner that has run, and of each scan that it did: seconds since the one before, and whether it worked."""
    runner = configured_runner(bundle, config, values, scans)
    measured: list[tuple[float, bool]] = []

    def timed(one: FolderRunner, todo: Sequence[int], take: Callable[[int, Any], None]) -> None:
        last = time.perf_counter()

        def took(number: int, row: Any) -> None:
            nonlocal last
            take(number, row)
            now = time.perf_counter()
            measured.append((now - last, row["status"] in WORKED))
            last = now

        one.do_here(todo, took)

    runner.engine, runner.keep_rows = timed, False
    runner.run()
    return runner, measured


def _bytes(case: Mapping[str, Any]) -> int:
    if DICOM in case:
        return sum(size for size, _ in case[DICOM]["stamps"])
    path = Path(str(case["image"]))
    return path.stat().st_size if path.is_file() else 0


def _peak_mib() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(held / (2**20 if sys.platform == "darwin" else 2**10))


def _time(hours: float) -> str:
    """``3.2 h``, ``4.0 min`` or ``2.1 days``."""
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"
