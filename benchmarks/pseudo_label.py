"""Pseudo-labels of a positive scan, against the pipeline one would write first. Prints one JSON line.

    python benchmarks/pseudo_label.py                                  # 32 slices of 384 pixels, fp32, on the CPU
    python benchmarks/pseudo_label.py --precision bf16                 # and how far its masks are from fp32's
    python benchmarks/pseudo_label.py --device cuda                    # ours and the other's networks on the GPU
    python benchmarks/pseudo_label.py --classifiers r34.pt r50.pt      # trained weights instead of random ones
    python benchmarks/pseudo_label.py --memory                         # peak memory of 100 scans against one

Ours is the bundle 'ich_pseudo_segmentation' as it runs, reading and writing included; the other side
(straightforward.py) reads and writes as well. Both run ResNet34 and ResNet50 on every slice, and every slice passes
the gate, which is the most work a scan can be. Needs 'pip install torchcam scikit-learn pydensecrf2'.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import commit, in_turns, machine, medians, memory_of, processor_times, ratio, require, steal_share

BACKBONES = ("resnet34", "resnet50")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--size", type=int, default=384, help="edge length of a slice (default: 384)")
    parser.add_argument("--slices", type=int, default=32, help="slices of the scan (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="timings per side (default: 3)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of our networks (default: fp32)")
    parser.add_argument("--classifiers", nargs=2, metavar="FILE", help="weights of ResNet34 and ResNet50")
    parser.add_argument("--image", help="NIfTI head CT (default: a phantom)")
    parser.add_argument("--alone", action="store_true", help="without the other side")
    parser.add_argument("--memory", action="store_true", help="peak memory of --scans scans against one, nothing else")
    parser.add_argument("--scans", type=int, default=100, help="with --memory (default: 100)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    device = torch.device(options.device)
    if not options.memory and not options.alone:
        require("pydensecrf", "sklearn", "torchcam")
    times = processor_times()
    report: dict[str, Any] = {"benchmark": "pseudo_label", "commit": commit(), "machine": machine(device)}
    report |= {name: getattr(options, name) for name in ("size", "slices", "rounds", "precision")}
    report |= {
        "image": "file" if options.image else "phantom",
        "weights": "given" if options.classifiers else "random",
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        report |= memory(work, options) if options.memory else compare(work, options, device)
    report["steal"] = steal_share(times, processor_times())
    print(json.dumps(report))


def compare(work: Path, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Both sides in turns, and how well their masks agree."""
    from ichseg.networks import load_weights, slice_classifier

    weights = classifiers(work, options.classifiers, options.size)
    data = scans(work / "data", options, 1)
    image = next((data / "images").iterdir())
    runner = ours(work / "ours", data, weights, options, options.precision)
    full = ours(work / "full", data, weights, options, "fp32")

    sides: dict[str, Callable[[], Any]] = {"ichseg": runner.run}
    if not options.alone:
        from straightforward import pseudo_label

        networks = [load_weights(slice_classifier(name), file).eval().to(device) for name, file in weights.items()]
        sides["straightforward"] = lambda: pseudo_label(
            image, work / "other.nii.gz", networks, options.size, device, 0.0
        )
    seconds = in_turns(sides, options.rounds, device)
    for side in (runner, full):
        row = side.run()[0]
        if row["status"] == "failed":
            raise SystemExit(row["message"])
    written = {
        "ichseg": voxels(next((work / "ours").rglob("*.nii.gz"))),
        "fp32": voxels(next((work / "full").rglob("*.nii.gz"))),
    }
    found: dict[str, Any] = {
        "ms_per_slice": medians(seconds, options.slices, 1),
        "seconds_per_scan": {name: value for name, value in medians(seconds, 1000, 2).items()},
        "dice_to_own_fp32": dice(written["ichseg"], written["fp32"]),
    }
    if not options.alone:
        written["straightforward"] = voxels(work / "other.nii.gz")
        found["times_faster"] = ratio(seconds, "straightforward", "ichseg")
        found["dice_to_straightforward"] = dice(written["ichseg"], written["straightforward"])
    return {
        **found,
        "share_of_voxels": {name: round(float(mask.mean()), 4) for name, mask in written.items()},
    }


def memory(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a run over one scan and over many, each in a fresh process."""
    weights = classifiers(work, options.classifiers, options.size)
    found = {}
    for count in (1, options.scans):
        data = scans(work / f"data{count}", options, count)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[count] = pool.apply(_run_alone, (work / f"out{count}", data, weights, options))
    one, many = found[1], found[options.scans]
    return {
        "memory_mib": {"1 scan": one, f"{options.scans} scans": many},
        "growth_of_peak": None if one is None else round(many["peak"] / one["peak"] - 1, 3),
    }


def _run_alone(work: Path, data: Path, weights: dict[str, Path], options: argparse.Namespace) -> dict | None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    runner = ours(work, data, weights, options, options.precision)
    return memory_of(runner.run)


def ours(work: Path, data: Path, weights: dict[str, Path], options: argparse.Namespace, precision: str) -> Any:
    """The bundle's runner; nothing is passed over, since every slice's probability reaches a gate of 0."""
    from monai.bundle import ConfigParser

    from ichseg.bundle import bundle_folder

    root = bundle_folder("ich_pseudo_segmentation")
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.yaml"))
    parser.update(
        {
            "bundle_root": str(root),
            "dataset_dir": str(data),
            "output_dir": str(work),
            "classifiers": {name: str(file) for name, file in weights.items()},
            "size": options.size,
            "gate": 0.0,
            "precision": precision,
            "precision_check": 0,  # measured here instead
            "device_name": options.device,
            "overwrite": True,
        }
    )
    return parser.get_parsed_content("evaluator")


def classifiers(work: Path, given: list[str] | None, size: int) -> dict[str, Path]:
    """Backbone -> weight file; random weights, the same on every run, if none are given."""
    from ichseg.networks import ClassifierSettings, save_weights, slice_classifier

    if given:
        return {name: Path(file) for name, file in zip(BACKBONES, given, strict=True)}
    files = {}
    for name in BACKBONES:
        torch.manual_seed(0)
        files[name] = work / f"{name}.pt"
        settings = ClassifierSettings(name, size, window_level=50, window_width=130)
        save_weights(files[name], slice_classifier(name).state_dict(), settings)
    return files


def scans(folder: Path, options: argparse.Namespace, count: int) -> Path:
    """A data folder with one scan, under as many names as wanted."""
    import shutil

    from ichseg.data.datalist import write_datalist
    from ichseg.io import write_volume
    from ichseg.synthetic.phantom import phantom_scan

    (folder / "images").mkdir(parents=True)
    first = folder / "images" / "scan_000.nii.gz"
    if options.image:
        shutil.copy(options.image, first)
    else:
        scan = phantom_scan(0, ("IPH", "SDH"), 512, options.slices)
        write_volume(first, scan.image, scan.affine)
    entries = []
    for number in range(count):
        name = f"scan_{number:03d}"
        if number:
            shutil.copy(first, folder / "images" / f"{name}.nii.gz")
        slices = [{"hemorrhage": 1} for _ in range(options.slices)]
        entries.append({"case": name, "patient": name, "image": f"images/{name}.nii.gz", "fold": 0, "slices": slices})
    write_datalist(folder, "benchmark", entries, license="none")
    return folder


def voxels(file: Path) -> np.ndarray:
    """A mask as booleans."""
    import nibabel as nib

    return np.asarray(nib.load(file).dataobj) > 0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """1 for two empty masks."""
    total = int(a.sum()) + int(b.sum())
    return round(2 * int((a & b).sum()) / total, 4) if total else 1.0


if __name__ == "__main__":
    main()
