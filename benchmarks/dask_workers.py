"""A folder on Dask workers of this machine: one against two, and with workers that are killed. Prints one JSON line.

    python benchmarks/dask_workers.py                         # 60 phantoms; one process, one worker, two workers
    python benchmarks/dask_workers.py --scans 200 --kills 20  # a local run, and two workers; 20 times, one is killed

Every worker has one thread and does one thing at a time, and so does the run in one process that they are compared
with; "usual" is a local run as it is, which reads the next scan and writes the last one beside the network. Seconds are
from the first scan that is done to the last, as each starts with loading the model; "whole" is the command as it is.
With --kills, masks and rows are compared with those of the usual local run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from measuring import commit, machine, processor_times, steal_share

from ichseg.synthetic.phantom import prepare_phantom


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=256, help="pixels per side of a phantom (default: 256)")
    parser.add_argument("--slices", type=int, default=16, help="slices of a phantom (default: 16)")
    parser.add_argument("--kills", type=int, default=0, help="workers to kill in a run more (default: 0)")
    options = parser.parse_args()
    times = processor_times()
    report: dict[str, Any] = {"benchmark": "dask_workers", "commit": commit(), "machine": machine(torch.device("cpu"))}
    report |= {"scans": options.scans, "size": options.size, "slices": options.slices}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scans = phantoms(work, options)
        dask = ["--engine", "dask", "--workers"]
        alone = ["--set", "evaluator::overlap=false"]
        sides = {"usual": []}
        if not options.kills:
            sides |= {"one process": alone, "one worker": [*dask, "1"], "two workers": [*dask, "2"]}
        found = {name: run(scans, work / name.replace(" ", "_"), words) for name, words in sides.items()}
        if options.kills:
            found["killed"] = run(scans, work / "killed", [*dask, "2"], options.kills)
            report["killed"] = found["killed"]["killed"]
        else:
            report["two_to_one"] = round(found["one worker"]["seconds"] / found["two workers"]["seconds"], 2)
            report["worker_to_process"] = round(found["one worker"]["seconds"] / found["one process"]["seconds"], 3)
        report["seconds"] = {name: one["seconds"] for name, one in found.items()}
        report["whole_s"] = {name: one["whole"] for name, one in found.items()}
        report["same"] = {name: same(work / "usual", work / name.replace(" ", "_")) for name in list(found)[1:]}
    print(json.dumps({**report, "steal": steal_share(times, processor_times())}))


def phantoms(work: Path, options: argparse.Namespace) -> Path:
    """A folder of scans: a few phantoms under many names."""
    prepare_phantom(work / "phantoms", scans=5, seed=0, size=options.size, slices=options.slices)
    source, scans = sorted((work / "phantoms" / "images").glob("*.nii.gz")), work / "scans"
    scans.mkdir()
    for number in range(options.scans):
        os.link(source[number % len(source)], scans / f"scan_{number:04d}.nii.gz")
    return scans


def run(scans: Path, out: Path, words: list[str], kills: int = 0) -> dict[str, Any]:
    """Segment with some more words on the command line."""
    command = [sys.executable, "-m", "ichseg", "segment", str(scans), str(out), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began, killed = time.time(), [0]
    stop = threading.Event()
    killer = threading.Thread(target=kill_now_and_then, args=(out, kills, stop, killed))
    killer.start()
    subprocess.run([*command, *words], env=environment, check=True, capture_output=True)
    whole = time.time() - began
    stop.set()
    killer.join()
    done = sorted(path.stat().st_mtime for path in out.glob("*_ich.nii.gz"))
    return {"seconds": round(done[-1] - done[0], 1), "whole": round(whole, 1), "killed": killed[0]}


def kill_now_and_then(out: Path, kills: int, stop: threading.Event, killed: list[int]) -> None:
    """Kill a random worker that has begun, at random times."""
    rng, gone = random.Random(0), set()
    while killed[0] < kills and not stop.wait(rng.uniform(0.5, 4.0)):
        alive = {int(path.stem.rsplit("-", 1)[1]) for path in out.glob("journal-worker-*.jsonl")} - gone
        for number in rng.sample(sorted(alive), min(1, len(alive))):
            gone.add(number)
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed[0] += 1


def same(here: Path, there: Path) -> dict[str, Any]:
    """How many masks are the same, whether rows are, and how many files were taken for a stranger's."""
    masks = sorted(here.glob("*_ich.nii.gz"))
    tables = []
    for folder in (here, there):
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    return {"masks": len(masks), "identical": sum(m.read_bytes() == (there / m.name).read_bytes() for m in masks),
            "rows_identical": tables[0] == tables[1], "strangers": len(list(there.rglob("*.bak*")))}  # fmt: skip


if __name__ == "__main__":
    main()
