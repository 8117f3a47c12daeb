"""Where the time of segmenting goes: every step of the bundle's config, in milliseconds a scan. Prints one JSON line.

    python benchmarks/steps.py SCANS                 # a folder of NIfTI scans
    python benchmarks/steps.py SCANS --scans 20 --precision bf16

One scan after another, nothing side by side, so that the steps add up; a folder run reads the next scan and writes the
last one while the network runs. The first scan warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import commit, machine, processor_times, steal_share, synchronize

from ichseg.folder import list_scans
from ichseg.folder.configured import configured_runner

NETWORK = "network"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="default: fp32")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    options = parser.parse_args()
    times, data = processor_times(), list_scans(options.folder)[: options.scans + 1]
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "dataset_dir": options.folder.absolute(),
            "output_dir": folder,
            "device_name": options.device,
            "precision": options.precision,
        }
        found = steps_of(configured_runner("ich_segmentation", "inference.yaml", values, data))
    milliseconds = {name: round(statistics.mean(seconds[1:]) * 1000, 1) for name, seconds in found.items()}
    whole = sum(milliseconds.values())
    report: dict[str, Any] = {
        "benchmark": "steps",
        "commit": commit(),
        "machine": machine(torch.device(options.device)),
    }
    report |= {"scans": len(data) - 1, "precision": options.precision, "threads": torch.get_num_threads()}
    report |= {"ms_per_scan": dict(sorted(milliseconds.items(), key=lambda one: -one[1])), "whole_ms": round(whole, 1)}
    report["network_share"] = round(milliseconds[NETWORK] / whole, 3)
    print(json.dumps({**report, "steal": steal_share(times, processor_times())}))


def steps_of(runner: Any) -> dict[str, list[float]]:
    """Step -> seconds for each scan, in the order in which they come."""
    found: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        synchronize(runner.device)
        started = time.perf_counter()
        made = step()
        synchronize(runner.device)
        found.setdefault(name, []).append(time.perf_counter() - started)
        return made

    for case in runner.dataset.data:
        item: Any = dict(case)
        with torch.no_grad():
            for number, transform in enumerate(runner.dataset.transform.transforms):
                item = timed(name_of("before", number, transform), lambda t=transform, i=item: t(i))
            image = item["image"][None].to(runner.device)
            item["pred"] = timed(NETWORK, lambda i=image: runner.inferer(i, runner.network)[0].cpu())
            for number, transform in enumerate(runner.postprocessing.transforms):
                item = timed(name_of("after", number, transform), lambda t=transform, i=item: t(i))
    return found


def name_of(when: str, number: int, transform: Any) -> str:
    """``before 4 HeadCropd``."""
    return f"{when} {number} {type(transform).__name__}"


if __name__ == "__main__":
    main()
