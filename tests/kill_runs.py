"""A folder run that is killed again and again has to end with what an undisturbed one gives, byte for byte.

    python tests/kill_runs.py FOLDER --good 155 --broken 45 --kills 50

Prints one JSON line; exit code 0 if everything agrees.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
from broken_files import AFFINE, CASES, head, image
from forked import run_module, start_module

POSTFIX = "_ich.nii.gz"


def fill(folder: Path, good: int, broken: int) -> None:
    """``good`` different scans and ``broken`` files that cannot be used."""
    folder.mkdir(parents=True)
    bad = [case for case in CASES if case.outcome == "failed" and not case.file.startswith(".")]
    for number in range(broken):
        case = bad[number % len(bad)]
        case.make(folder / f"broken_{number:03d}_{case.file}")
    for number in range(good):
        array = head().astype(np.int16)
        array[10 + number % 20 : 16 + number % 20, 20:26, 1 + number % 4] = 60 + number % 10
        image(array, AFFINE).to_filename(folder / f"good_{number:03d}.nii.gz")


def command(scans: Path, masks: Path) -> list[str]:
    """The run under test."""
    return ["ichseg", "segment", str(scans), str(masks), "--device", "cpu", "--size", "64"]


def run(scans: Path, masks: Path) -> int:
    """An undisturbed run; returns its exit code."""
    return run_module(command(scans, masks)).returncode


def run_and_kill(scans: Path, masks: Path, after: float, lines: int) -> bool:
    """Start a run and kill it ``after`` seconds past the first ``lines`` new lines of its journal; True if it lived."""
    journal = masks / "journal.jsonl"
    held = count(journal)
    process = start_module(command(scans, masks))
    while process.is_alive() and count(journal) < held + lines:
        time.sleep(0.005)
    time.sleep(after)
    lived = process.is_alive()
    process.kill()
    process.join()
    return lived


def count(journal: Path) -> int:
    """Lines of the journal, which may not be there yet."""
    return journal.read_bytes().count(b"\n") if journal.is_file() else 0


def masks_of(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every mask."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(f"*{POSTFIX}"))}


def rows_of(folder: Path) -> list[dict[str, object]]:
    """The rows of the results, without what differs from run to run."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "reused")} for row in rows]


def compare(folder: Path, good: int, broken: int, kills: int, seed: int = 0) -> dict[str, object]:
    """One undisturbed run, one that is killed ``kills`` times, and what they have in common."""
    scans, calm, killed = folder / "scans", folder / "calm", folder / "killed"
    fill(scans, good, broken)
    code = run(scans, calm)
    draw, struck, seen = random.Random(seed), 0, 0
    truth = masks_of(calm)
    for _ in range(kills):
        # a few cases further each time, so that the last kill still meets a run at work
        struck += run_and_kill(scans, killed, draw.random() * 0.2, 1 + draw.randint(0, max(1, good // kills)))
        # whatever looks finished is finished
        seen += sum(truth.get(name) != digest for name, digest in masks_of(killed).items())
    done = count(killed / "journal.jsonl")
    last = run(scans, killed)
    left = [str(path.relative_to(killed)) for path in killed.rglob(".ichseg-tmp-*")]
    failed = sum(row["status"] == "failed" for row in rows_of(killed))
    return {
        "exit_codes": [code, last], "masks": len(masks_of(killed)), "failed_rows": failed, "kills": struck,
        "journal_lines_before_the_last_run": done, "half_written": seen, "left_over": left,
        "same_masks": masks_of(killed) == truth, "same_rows": rows_of(killed) == rows_of(calm),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder to make")
    parser.add_argument("--good", type=int, default=155)
    parser.add_argument("--broken", type=int, default=45)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    told = compare(options.folder, options.good, options.broken, options.kills, options.seed)
    sys.stdout.write(json.dumps(told) + "\n")
    fine = told["same_masks"] and told["same_rows"] and not told["half_written"] and not told["left_over"]
    raise SystemExit(0 if fine and told["masks"] == options.good and told["failed_rows"] == options.broken else 1)


if __name__ == "__main__":
    main()
