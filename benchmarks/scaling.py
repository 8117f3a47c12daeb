"""How time and memory grow with slices, pixels, labels, threads, and scans: one JSON line and a picture.

    python benchmarks/scaling.py scaling.png                  # about 10 minutes on two cores
    python benchmarks/scaling.py scaling.png --quick          # small sizes, to see that it works
    python benchmarks/scaling.py --again line.json scaling.png

The dense CRF runs alone (two labels, ten iterations); 'segmenting a scan' is the loaded model on an array, from Python;
'folder' is the command 'ichseg segment' from the start of Python to the report. The exponent is the slope on
logarithmic axes: 1 is linear growth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crf import added_memory, problem
from measuring import commit, cores, machine, processor_times, steal_share
from segment import measured

from ichseg.crf import DenseCRF
from ichseg.inference.segmenter import Segmenter
from ichseg.io import atomic_path, write_volume
from ichseg.synthetic.phantom import phantom_scan

CPU = torch.device("cpu")
Curve = dict[str, Any]


def main() -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, metavar="PNG", help="picture to write")
    parser.add_argument("--rounds", type=int, default=3, help="timings per point; the median counts (default: 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few points")
    parser.add_argument("--again", type=Path, metavar="JSON", help="draw what an earlier run has printed")
    options = parser.parse_args()
    if options.again:
        draw(options.picture, json.loads(options.again.read_text(encoding="utf-8")))
        return
    warnings.simplefilter("ignore")
    times = processor_times()
    report: dict[str, Any] = {"benchmark": "scaling", "commit": commit(), "machine": machine(CPU)}
    report["curves"] = curves(options.quick, options.rounds)
    report["steal"] = steal_share(times, processor_times())
    draw(options.picture, report)
    print(json.dumps(report))


def curves(quick: bool, rounds: int) -> dict[str, Curve]:
    """What -> points, seconds, perhaps MiB, and the exponent."""
    sizes = (64, 96) if quick else (128, 192, 256, 384, 512, 768)
    counts = (1, 2) if quick else (1, 2, 4, 8, 16, 32)
    labels = (2, 3) if quick else (2, 3, 4, 6, 8)
    slices = (8, 12) if quick else (8, 16, 32, 64, 128)
    edges = (64, 96) if quick else (256, 384, 512, 768)
    scans = (1, 2) if quick else (1, 5, 20, 60)
    threads = sorted({1, cores()})
    few, edge = counts[-1] // 4 or 1, sizes[len(sizes) // 2]
    usual, thick = edges[-2], slices[1]
    return {
        "dense CRF, pixels of a slice": crf(squares(sizes), [(size, few, 2) for size in sizes], rounds, few),
        "dense CRF, slices": crf(counts, [(edge, count, 2) for count in counts], rounds),
        "dense CRF, labels": crf(labels, [(edge, few, count) for count in labels], rounds),
        "dense CRF, threads": on_threads(threads, edge, few, rounds),
        "segmenting a scan, slices": segmenting(slices, [(usual, count) for count in slices], rounds),
        "segmenting a scan, pixels of a slice": segmenting(squares(edges), [(e, thick) for e in edges], rounds),
        "folder, scans": folder(scans, usual, thick),
    }


def squares(edges: Sequence[int]) -> list[int]:
    """Pixels of a slice."""
    return [edge**2 for edge in edges]


def crf(at: Sequence[int], cases: Sequence[tuple[int, int, int]], rounds: int, per: int = 1) -> Curve:
    """Seconds and added MiB of (size, slices, labels)."""
    seconds, mib = [], []
    for size, count, labels in cases:
        gray, p = problem(None, size, count)
        if labels > 2:
            p = torch.cat([p[:, :1], (p[:, 1:] / (labels - 1)).expand(-1, labels - 1, -1, -1)], dim=1)
        seconds.append(timed(lambda p=p, gray=gray: DenseCRF()(p, gray), rounds) / per)
        mib.append(added_memory(p, gray, CPU))
    return curve(at, seconds, mib)


def on_threads(threads: Sequence[int], size: int, count: int, rounds: int) -> Curve:
    """Seconds on some of the cores."""
    gray, p = problem(None, size, count)
    seconds, before = [], torch.get_num_threads()
    try:
        for number in threads:
            torch.set_num_threads(number)
            seconds.append(timed(lambda: DenseCRF()(p, gray), rounds))
    finally:
        torch.set_num_threads(before)
    return curve(threads, seconds)


def segmenting(at: Sequence[int], cases: Sequence[tuple[int, int]], rounds: int) -> Curve:
    """Seconds of (size, slices)."""
    model = Segmenter(device="cpu")
    seconds = []
    for size, count in cases:
        scan = phantom_scan(0, ("IPH",), size, count)
        seconds.append(timed(lambda scan=scan: model(scan.image, scan.affine), rounds))
    return curve(at, seconds)


def folder(at: Sequence[int], size: int, slices: int) -> Curve:
    """Seconds and peak MiB of the whole command."""
    seconds, mib = [], []
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        scan = phantom_scan(0, ("IPH",), size, slices)
        write_volume(work / "scan.nii.gz", scan.image, scan.affine, "phantom")
        for count in at:
            (work / f"in{count}").mkdir()
            for number in range(count):
                os.link(work / "scan.nii.gz", work / f"in{count}" / f"{number:04d}.nii.gz")
            took, held = measured([sys.executable, "-m", "ichseg", "segment", str(work / f"in{count}"),
                                   str(work / f"out{count}"), "--device", "cpu"])  # fmt: skip
            seconds.append(took)
            mib.append(held)
    return curve(at, seconds, mib)


def timed(function: Callable[[], Any], rounds: int) -> float:
    """Median seconds, after one call that warms up."""
    function()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def curve(at: Sequence[int], seconds: Sequence[float], mib: Sequence[float | None] = ()) -> Curve:
    """Points with their exponent, that of the upper half: constant costs hide it below."""
    half = len(at) // 2 if len(at) > 3 else 0
    slope = float(np.polyfit(np.log(at[half:]), np.log(seconds[half:]), 1)[0]) if len(at) > 1 else 0.0
    found: Curve = {"at": list(at), "seconds": [float(f"{one:.3g}") for one in seconds], "exponent": round(slope, 2)}
    if mib and None not in mib:
        found["mib"] = [round(float(one or 0)) for one in mib]
    return found


def draw(path: Path, report: dict[str, Any]) -> None:
    """A panel per curve: seconds in blue, MiB in orange; both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    found: dict[str, Curve] = report["curves"]
    columns = 3
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(12, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, one) in zip(axes, found.items(), strict=False):
        what, _, unit = name.partition(", ")
        axis.loglog(one["at"], one["seconds"], "o-", color="#1f77b4")
        axis.set_title(f"{what}: exponent {one['exponent']:g}", fontsize=9)
        axis.set_ylim(min(one["seconds"]) / 3, 3 * max(one["seconds"]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_xlabel(unit, fontsize=8)
        axis.set_ylabel("seconds", color="#1f77b4", fontsize=8)
        axis.xaxis.set_major_locator(FixedLocator(one["at"]))
        axis.xaxis.set_major_formatter(FixedFormatter([_short(value) for value in one["at"]]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if "mib" in one:
            other = axis.twinx()
            other.plot(one["at"], one["mib"], "s--", color="#d95f02", markersize=4)
            other.set_ylabel("MiB", color="#d95f02", fontsize=8)
            other.set_ylim(0, 1.2 * max(one["mib"]))
            other.tick_params(labelsize=7)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    told = report["machine"]
    figure.suptitle(f"{told['cpu']}, {told['cores']} cores, {told['instructions']}, torch {told['torch']}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _short(value: int) -> str:
    edge = round(value**0.5)
    return f"{edge}²" if value > 1000 and edge**2 == value else str(value)


if __name__ == "__main__":
    main()
