"""What a folder run keeps about its scans, at a tenth of many and at many. Prints one JSON line.

    python benchmarks/archive.py                    # 10,000 and 100,000 scans
    python benchmarks/archive.py --scans 5000

Scans, masks and pictures are made-up files of a few bytes, so that what is measured is the bookkeeping: listing a
folder, the journal, the table while a run goes on, resuming (every input and output is read and compared), joining
four parts, the status of a folder, the report, and a run on a Dask worker that takes no time for a scan (also the MiB
that its scheduler took). Seconds of each step, MiB that it added at most, and the exponent with which the seconds grow
(1: linear).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measuring import commit, kib_of, machine, memory_of, processor_times, steal_share

MEASURED = {"volume_ml": 3.2, "lesions": 2, "largest_ml": 2.9, "largest_slice": 7, "side": "left", "a_cm": 2.1,
            "b_cm": 1.8, "c_cm": 1.5, "abc2_ml": 2.8, "over_30_ml": False, "over_60_ml": False}  # fmt: skip
PICTURE = {"montage": "x" * 2000, "numbers": [1, 2], "volume": {"mask_file": "none"}}


def main() -> None:
    """Measure and print; every size in a process of its own, so that memory can be told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(dict(steps(Path(folder), options.only))))
        return
    times = processor_times()
    sizes = (max(options.scans // 10, 10), options.scans)
    found = []
    for size in sizes:
        made = subprocess.run(
            [sys.executable, __file__, "--only", str(size)], capture_output=True, check=True, text=True
        )
        found.append(json.loads(made.stdout.splitlines()[-1]))
    small, large = found
    growth = {
        name: round(math.log(max(large[name][0], 1e-3) / max(small[name][0], 1e-3)) / math.log(sizes[1] / sizes[0]), 2)
        for name in large
    }
    report: dict[str, Any] = {"benchmark": "archive", "commit": commit(), "machine": machine(torch.device("cpu"))}
    report |= {"scans": sizes, "seconds": {name: [small[name][0], large[name][0]] for name in large},
               "mib": {name: [small[name][1], large[name][1]] for name in large}, "exponent": growth}  # fmt: skip
    print(json.dumps({**report, "steal": steal_share(times, processor_times())}))


def steps(work: Path, count: int) -> Iterator[tuple[str, tuple[float, float | None]]]:
    """Name, seconds and MiB of every step with so many scans."""
    from ichseg.folder import Journal, Results, list_scans, merge_parts
    from ichseg.folder.status import read_status
    from ichseg.report.page import write_report

    scans, masks = work / "scans", work / "masks"
    cases = [f"site_{number % 100:02d}/scan_{number:07d}" for number in range(count)]
    for place in {(root / case).parent for case in cases for root in (scans, masks, masks / "report_cases")}:
        place.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (scans / f"{case}.nii.gz").write_text(case)
        (masks / f"{case}_ich.nii.gz").write_text(case)
    listed: list[Sequence[dict[str, Any]]] = []
    yield "list", measured(lambda: listed.append(list_scans(scans)))
    (items,) = listed
    journal = Journal(masks)

    def write_journal() -> None:
        with journal.opened({}):
            for item in items:
                output = masks / f"{item['case']}_ich.nii.gz"
                journal.record(item, journal.identity(item), row_of(item), [output])

    sync, os.fsync = os.fsync, lambda _: None  # how long a disk takes for that says nothing of the journal
    yield "journal written, without waiting for the disk", measured(write_journal)
    os.fsync = sync

    def resume() -> None:
        with Journal(masks).opened({}) as later:
            if any(later.done(item) is None for item in items):
                raise SystemExit("a scan that was done was not taken for done")

    yield "resume", measured(resume)

    def add_all() -> None:
        table = Results(masks, (item["image"] for item in items))
        for item in items:
            table.add(row_of(item))
        table.write()

    yield "table, row by row", measured(add_all)
    for part in range(4):
        some = Results(masks, name=f"results-{part + 1}of4")
        for item in itertools.islice(items, part, None, 4):
            some.add(row_of(item), write=False)
        some.write()
        (masks / f"report-{part + 1}of4.json").write_text('{"run": "x", "finished": "9"}')
    yield "merge", measured(lambda: merge_parts(masks))
    yield "status", measured(lambda: read_status(masks))
    for case in cases:
        (masks / "report_cases" / f"{case}.json").write_text(json.dumps(PICTURE))
    facts = {"ichseg": "0", "finished": "", "seconds": 1.0, "device": "cpu", "weights": {}}
    yield "report", measured(lambda: write_report(masks, map(row_of, items), facts))
    with dask_processes(work) as (scheduler, file):
        run_on_dask(file, masks, items[:8])  # imports what it needs
        before = kib_of(scheduler)
        yield "on Dask", measured(lambda: run_on_dask(file, masks, items))
        yield "on Dask, the scheduler", (0.0, round((kib_of(scheduler) - before) / 2**10, 1))


@contextlib.contextmanager
def dask_processes(work: Path) -> Iterator[tuple[int, str]]:
    """Process number of a scheduler that has one worker, and the file that says where it is."""
    file, environment = str(work / "scheduler.json"), {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = (
        ["scheduler", "--port", "0", "--no-dashboard"],
        ["worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"],
    )
    started = []
    try:
        for words in commands:
            command = [sys.executable, "-m", "dask", *words, "--scheduler-file", file]
            started.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=work))
            time.sleep(5)
        yield started[0].pid, file
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def row_of(item: dict[str, Any]) -> dict[str, Any]:
    """What a scan comes to."""
    row = {"case": item["case"], "status": "ok", "probability": 0.5, **MEASURED, "seconds": 1.0, "message": ""}
    return {**row, "file": item["image"]}


def run_on_dask(file: str, masks: Path, items: Sequence[dict[str, Any]]) -> None:
    """What the process that was started does with all scans of a new run."""
    from ichseg.folder import Journal, Results, dask_engine

    row = row_of(items[0])

    def no_work(_work: Any, cases: list[dict[str, Any]], *_: Any) -> list[dict[str, Any]]:
        return [{**row, "case": case["case"], "file": case["image"]} for case in cases]

    dask_engine.do_work = no_work
    engine = dask_engine.DaskEngine("bundle", "inference", {}, file, workers=1)
    runner = SimpleNamespace(journal=Journal(masks), dataset=SimpleNamespace(data=items), output_dir=masks,
                             inputs_below=lambda _: [])  # fmt: skip
    table = Results(masks, (item["image"] for item in items))
    engine(runner, range(len(items)), lambda _, row: table.add(row))
    table.write()
    if len(table.rows) != len(items):
        raise SystemExit("a scan got no row")


def measured(step: Callable[[], Any]) -> tuple[float, float | None]:
    """Seconds of a step, and the MiB that the process held more than before, at most."""
    started = time.perf_counter()
    held = memory_of(step)
    return round(time.perf_counter() - started, 2), None if held is None else round(held["peak"] - held["before"], 1)


if __name__ == "__main__":
    main()
