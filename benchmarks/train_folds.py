"""Train all folds of the recommended preset side by side on one device, then pool them.

    python benchmarks/train_folds.py SMALL/datalist.json OUT --set architecture=lite -- --precision bf16 --epochs 20

What follows ``--`` goes to ``ichseg train``. Small networks leave a large GPU idle, so several folds train at once. The
implants of all folds are drawn first, by all cores. Prints one JSON line: seconds of drawing, training and pooling, and
the device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from ichseg.bundle import BundleParts, parse_settings
from ichseg.data import load_datalist
from ichseg.devices import pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalist", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--parallel", type=int, default=5, help="folds that train at once (default: 5)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of train_recommended.yaml")
    # What follows "--" is for another program: argparse would not leave it alone.
    given, words = _divided(sys.argv[1:])
    args = parser.parse_args(given)
    folds = sorted({int(scan["fold"]) for scan in load_datalist(args.datalist)})
    common = [sys.executable, "-m", "ichseg", "train", "--datalist", str(args.datalist), "--output", str(args.output),
              "--cross-validate", *(f"--set={setting}" for setting in args.set), *words]  # fmt: skip
    started = time.perf_counter()
    values = {**parse_settings("ich_segmentation", "train_recommended.yaml", args.set), "train_folds": folds,
              "datalist": args.datalist.resolve(), "cache_dir": args.output.resolve(),
              "num_workers": os.cpu_count() or 1}  # fmt: skip
    BundleParts("ich_segmentation", "train_recommended.yaml", values)["train::pool::pool"]
    drawn = time.perf_counter()
    waiting, running = list(folds), []
    while waiting or running:
        while waiting and len(running) < args.parallel:
            running.append(subprocess.Popen([*common, "--fold", str(waiting.pop(0))]))
        time.sleep(1)
        for process in [one for one in running if one.poll() is not None]:
            running.remove(process)
            if process.returncode:
                for other in running:
                    other.terminate()
                raise SystemExit(process.returncode)
    trained = time.perf_counter()
    subprocess.run(common, check=True)
    device = pick_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(json.dumps({"folds": len(folds), "device": name, "drawing_s": round(drawn - started, 1),
                      "training_s": round(trained - drawn, 1),
                      "pooling_s": round(time.perf_counter() - trained, 1)}))  # fmt: skip


def _divided(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--`` and what stands after it."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


if __name__ == "__main__":
    main()
