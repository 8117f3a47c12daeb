"""The dense CRF against pydensecrf, in time, and against the exact sum, in accuracy. Prints one JSON line.

    python benchmarks/crf.py                       # 32 slices of 384 and 512 pixels, all cores of the CPU
    python benchmarks/crf.py --device cuda         # ours on the GPU, pydensecrf still on the CPU's cores
    python benchmarks/crf.py --image scan.nii.gz   # a scan of yours instead of a phantom
    python benchmarks/crf.py --alone               # ours only

pydensecrf runs as many processes as there are cores, on its gray lattice (position and one gray level).
Accuracy is measured where the answer is not saturated: one iteration at the published weights, and ten at weak ones.
Needs 'pip install pydensecrf2' (and g++ to build it).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lattice_pool import LatticePool
from measuring import (
    commit,
    cores,
    in_turns,
    machine,
    medians,
    memory_of,
    processor_times,
    ratio,
    require,
    steal_share,
)
from slices import head_slices

from ichseg.crf import DenseCRF

CROP = 64
# One step at the published weights; ten at weights weak enough not to end in 0 and 1.
UNSATURATED = {
    "1 iteration": {"iterations": 1},
    "10 weak iterations": {"iterations": 10, "spatial_weight": 0.3, "bilateral_weight": 0.5},
    "1 iteration, sigma 20": {"iterations": 1, "bilateral_sigma": 20},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 512], help="edge lengths (default: 384 512)")
    parser.add_argument("--slices", type=int, default=32, help="slices per timing (default: 32)")
    parser.add_argument("--rounds", type=int, default=5, help="timings per side (default: 5)")
    parser.add_argument("--alone", action="store_true", help="without pydensecrf")
    parser.add_argument("--partial", action="store_true", help="print a line after each size; the last has everything")
    parser.add_argument("--image", help="NIfTI head CT to take the slices from (default: a phantom)")
    options = parser.parse_args()
    device = torch.device(options.device)
    if not options.alone:
        require("pydensecrf")
    times = processor_times()
    report: dict[str, Any] = {"benchmark": "crf", "commit": commit(), "machine": machine(device)}
    report |= {"image": "file" if options.image else "phantom", "slices": options.slices, "rounds": options.rounds}
    report["sizes"] = {}
    for size in options.sizes:
        gray, p = problem(options.image, size, options.slices)
        report["sizes"][size] = {
            **timing(p, gray, device, options.rounds, options.alone, exact=size == options.sizes[0]),
            "added_peak_mib": added_memory(p, gray, device),
            "accuracy": accuracy(p, gray, device, options.alone),
        }
        if options.partial:
            print(json.dumps(report), flush=True)
    first, last = options.sizes[0], options.sizes[-1]
    found = report["sizes"]
    if first != last:
        growth = found[last]["ms_per_slice"]["grid"] / found[first]["ms_per_slice"]["grid"]
        report["time_per_pixel"] = {f"{last} against {first}": round(growth / (last / first) ** 2, 2)}
    report["steal"] = steal_share(times, processor_times())
    print(json.dumps(report))


def problem(image: str | None, size: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gray slices (n, 1, H, W) and the probabilities (n, 2, H, W) of a coarse mask of what is bright."""
    gray = head_slices(image, size, count)
    bright = torch.nn.functional.avg_pool2d(((gray > 130) & (gray < 200)).float(), 9, 1, 4) > 0.5
    p = torch.where(bright, 0.7, 0.3)
    return gray, torch.cat([1 - p, p], dim=1)


def timing(
    p: torch.Tensor, gray: torch.Tensor, device: torch.device, rounds: int, alone: bool, exact: bool
) -> dict[str, Any]:
    """Both sides in turns."""
    crf, p_there, gray_there = DenseCRF(), p.to(device), gray.to(device)
    sides: dict[str, Callable[[], Any]] = {"grid": lambda: crf(p_there, gray_there)}
    other = None if alone else LatticePool(p.numpy(), gray[:, 0].numpy(), cores())
    try:
        seconds = in_turns(sides if other is None else {**sides, "pydensecrf": other}, rounds, device)
    finally:
        if other is not None:
            other.close()
    found: dict[str, Any] = {"ms_per_slice": medians(seconds, len(p))}
    if other is not None:
        found["times_faster"] = ratio(seconds, "pydensecrf", "grid")
    if exact and device.type == "cuda":  # the full sum, which a CPU would take minutes for
        full = DenseCRF(backend="exact")
        found["ms_per_slice"] |= medians(in_turns({"exact": lambda: full(p_there[:1], gray_there[:1])}, 1, device), 1)
    return found


def accuracy(p: torch.Tensor, gray: torch.Tensor, device: torch.device, alone: bool) -> dict[str, Any]:
    """Mean |dQ| to the exact sum on crops, ours and pydensecrf's, and how many pixels get the same label."""
    size = p.shape[-1]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for number in range(0, len(p), max(1, len(p) // 8)):
        y, x = (torch.randint(size // 4, size - size // 4 - CROP, (2,), generator=generator)).tolist()
        crops.append((number, slice(y, y + CROP), slice(x, x + CROP)))
    part = torch.stack([p[n, :, rows, columns] for n, rows, columns in crops])
    picture = torch.stack([gray[n, :, rows, columns] for n, rows, columns in crops])
    noise = torch.rand(part.shape, generator=generator) + 0.5
    part = part * noise / (part * noise).sum(dim=1, keepdim=True)
    found: dict[str, Any] = {}
    for name, settings in UNSATURATED.items():
        exact = DenseCRF(backend="exact", **settings)(part.double(), picture.double())
        sides = {"grid": DenseCRF(**settings)(part.to(device), picture.to(device)).cpu()}
        if not alone:
            sides["pydensecrf"] = DenseCRF(backend="pydensecrf", **settings)(part, picture)
        errors = {side: float((q - exact).abs().mean()) for side, q in sides.items()}
        found[name] = {
            "mean_abs_error": {side: float(f"{error:.3g}") for side, error in errors.items()},
            **({} if alone else {"times_nearer": round(errors["pydensecrf"] / errors["grid"], 1)}),
            "same_label": {
                side: round(float((q.argmax(1) == exact.argmax(1)).float().mean()), 5) for side, q in sides.items()
            },
        }
    return found


def added_memory(p: torch.Tensor, gray: torch.Tensor, device: torch.device) -> float | None:
    """MiB that one call takes beyond what was held before it, its result included."""
    if device.type == "cuda":
        p, gray = p.to(device), gray.to(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        DenseCRF()(p, gray)
        return round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_alone, (p.numpy(), gray.numpy(), torch.get_num_threads()))


def _alone(p: np.ndarray, gray: np.ndarray, threads: int) -> float | None:
    torch.set_num_threads(threads)
    found = memory_of(lambda: DenseCRF()(torch.from_numpy(p), torch.from_numpy(gray)))
    return None if found is None else round(found["peak"] - found["before"], 1)


if __name__ == "__main__":
    main()
