"""Segmenting a folder, against the MONAI pipeline one would write first. Prints one JSON line.

    python benchmarks/segment.py                              # 20 phantoms of 34 slices of 512 pixels
    python benchmarks/segment.py --scans DATA/images          # the first 20 scans of a folder
    python benchmarks/segment.py --precision bf16             # ours only; what changes is in the masks
    python benchmarks/segment.py --backend openvino           # ours only
    python benchmarks/segment.py --memory                     # peak memory of 200 scans against 5 and one, nothing else

Both sides are whole commands, from the start of Python to the last mask: 'ichseg segment', report included, and
'python -m monai.bundle run' of stock_inference.yaml, with the same weights. They take turns; masks are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from measuring import commit, machine, processor_times, ratio, steal_share

from ichseg.bundle import bundle_folder
from ichseg.defaults import BACKENDS
from ichseg.networks import SegmenterSettings, read_settings
from ichseg.synthetic.phantom import prepare_phantom

FEW = 5
HERE = Path(__file__).resolve().parent
WEIGHTS = bundle_folder("ich_segmentation") / "models" / "model.pt"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, metavar="DIR", help="folder of .nii.gz scans (default: phantoms)")
    parser.add_argument("--count", type=int, default=20, help="how many of them (default: 20)")
    parser.add_argument("--size", type=int, default=512, help="phantoms: pixels per side (default: 512)")
    parser.add_argument("--slices", type=int, default=34, help="phantoms: slices (default: 34)")
    parser.add_argument("--rounds", type=int, default=3, help="timings per side (default: 3)")
    parser.add_argument(
        "--device", default="cpu", help="of ours: cpu (default) or cuda; stock takes a GPU if there is one"
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of ours (default: fp32)")
    parser.add_argument("--backend", default=BACKENDS[0], choices=BACKENDS, help="of ours (default: %(default)s)")
    parser.add_argument("--memory", action="store_true", help="peak memory of --many scans against one, nothing else")
    parser.add_argument("--many", type=int, default=200, help="with --memory (default: 200)")
    options = parser.parse_args()
    times = processor_times()
    report: dict[str, Any] = {
        "benchmark": "segment",
        "commit": commit(),
        "machine": machine(torch.device(options.device)),
    }
    report |= {"scans": "file" if options.scans else "phantom", "count": options.count, "precision": options.precision,
               "backend": options.backend}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        report |= memory(work, options) if options.memory else compare(work, options)
    report["steal"] = steal_share(times, processor_times())
    print(json.dumps(report))


def compare(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, peak memory and masks of both sides on the same scans."""
    scans = gathered(work, options, options.count)
    sides = {"ichseg": ours(scans, work / "ichseg", options), "stock": stock(scans, work / "stock")}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peak: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, command in sides.items():
            shutil.rmtree(work / name, ignore_errors=True)
            took, held = measured(command)
            if number:  # the first round fills the file cache
                seconds[name].append(took)
                peak[name].append(held)
    masks = sorted((work / "ichseg").glob("*_ich.nii.gz"))
    voxels = [(voxels_of(mask), voxels_of(work / "stock" / mask.name)) for mask in masks]
    return {
        "seconds": {name: round(statistics.median(times), 1) for name, times in seconds.items()},
        "times_faster": ratio(seconds, "stock", "ichseg"),
        "peak_mib": {name: round(statistics.median(held)) for name, held in peak.items()},
        "imports_mib": round(measured([sys.executable, "-c", "import monai.bundle, monai.transforms"])[1]),
        "peak_share": round(statistics.median(peak["ichseg"]) / statistics.median(peak["stock"]), 2),
        "masks": len(masks),
        "masks_identical": sum(bool(np.array_equal(a, b)) for a, b in voxels),
        "voxels_in_masks": int(sum(b.sum() for _, b in voxels)),
        "voxels_differing": int(sum((a != b).sum() for a, b in voxels)),
    }


def memory(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of ours with many scans against one of the same, and against a few: one alone overlaps with none."""
    counts = {"one": 1, "few": FEW, "many": options.many}
    source = sorted(gathered(work, options, 1).glob("*.nii.gz"))[0]
    held = {}
    for name, count in counts.items():
        (work / name).mkdir()
        for number in range(count):
            os.link(source, work / name / f"scan_{number:03d}.nii.gz")
        held[name] = measured(ours(work / name, work / f"{name}_masks", options))[1]
    return {"scans_of": counts, "peak_mib": {name: round(mib) for name, mib in held.items()},
            "many_to_one": round(held["many"] / held["one"], 3),
            "many_to_few": round(held["many"] / held["few"], 3)}  # fmt: skip


def gathered(work: Path, options: argparse.Namespace, count: int) -> Path:
    """A folder with the first ``count`` scans."""
    folder = work / "scans"
    if options.scans is None:
        prepare_phantom(work / "phantoms", scans=max(count, 5), seed=0, size=options.size, slices=options.slices)
    source = options.scans or work / "phantoms" / "images"
    folder.mkdir()
    for path in sorted(source.glob("*.nii.gz"))[:count]:
        shutil.copyfile(path, folder / path.name)
    return folder


def ours(scans: Path, masks: Path, options: argparse.Namespace) -> list[str]:
    """The command of our side."""
    return [sys.executable, "-m", "ichseg", "segment", str(scans), str(masks), "--device", options.device,
            "--precision", options.precision, "--backend", options.backend]  # fmt: skip


def stock(scans: Path, masks: Path) -> list[str]:
    """The command of the other side."""
    known = yaml.safe_load((HERE / "stock_inference.yaml").read_text(encoding="utf-8"))
    fitted = asdict(read_settings(WEIGHTS, SegmenterSettings))
    settings = [word for key, value in fitted.items() if key in known for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(HERE / "stock_inference.yaml"),
            "--dataset_dir", str(scans), "--output_dir", str(masks), "--weights", str(WEIGHTS), *settings]  # fmt: skip


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command.

    The peak is asked of the running process: what the system tells of one that has ended includes the process that
    started it.
    """
    start, peak = time.perf_counter(), 0.0
    with tempfile.TemporaryFile() as told, subprocess.Popen(command, stdout=told, stderr=told) as process:
        while process.poll() is None:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(0.02)
        took = time.perf_counter() - start
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{told.read()[-2000:].decode(errors='replace')}")
    return took, peak


def peak_mib(process: int) -> float:
    """Most memory a process has held so far; 0 where Linux does not say it."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


def voxels_of(path: Path) -> np.ndarray:
    """The voxels of a mask."""
    return np.asarray(nib.load(path).dataobj)


if __name__ == "__main__":
    main()
