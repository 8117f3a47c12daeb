"""One training step of the recommended preset, in milliseconds. Prints one JSON line.

    python benchmarks/train_step.py --precision bf16                  # CPU
    python benchmarks/train_step.py --precision bf16 --device cuda    # with and without CUDA graphs, in turns
    python benchmarks/train_step.py --profile                         # what a step spends its time on, on a CPU

A step is all of it but drawing the batch: augmentation, the teacher, both passes, AdamW, the average of weights. With
--profile, also the operators with the most time of their own, and the convolutions' arithmetic a second beside that of
a large matrix product on this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from measuring import commit, in_turns, machine, medians, processor_times, ratio, steal_share
from torch.utils.flop_counter import FlopCounterMode

from ichseg.bundle import BundleParts
from ichseg.training import ClipGradients

SHOWN = 12  # operators


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="default: fp32")
    parser.add_argument("--size", type=int, default=224, help="pixels per side (default: 224)")
    parser.add_argument("--steps", type=int, default=5, help="steps per timing (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="timings per side (default: 5)")
    parser.add_argument("--profile", action="store_true", help="also where the time of a step goes; on a CPU, in fp32")
    options = parser.parse_args()
    if options.profile and (options.device, options.precision) != ("cpu", "fp32"):
        parser.error("--profile is for the CPU and fp32")
    device, times = torch.device(options.device), processor_times()
    sides = {"as it is": step_of(options, False)}
    if device.type == "cuda":
        sides["CUDA graphs"] = step_of(options, True)
    seconds = in_turns({name: repeated(step, options.steps) for name, step in sides.items()}, options.rounds, device)
    report: dict[str, Any] = {"benchmark": "train_step", "commit": commit(), "machine": machine(device)}
    report |= {"precision": options.precision, "size": options.size, "ms": medians(seconds, options.steps)}
    if len(sides) > 1:
        report["ratio"] = ratio(seconds, *sides)
    if options.profile:
        report["profile"] = profiled(sides["as it is"], options)
    print(json.dumps({**report, "steal": steal_share(times, processor_times())}))


def step_of(options: argparse.Namespace, graphs: bool) -> Callable[[], None]:
    """A training step with parts of its own, on a batch like those of training."""
    values = {"device_name": options.device, "precision": options.precision, "cuda_graphs": graphs,
              "size": options.size, "encoder_weights": None}  # fmt: skip
    parts = BundleParts("ich_segmentation", "train_recommended.yaml", values)
    network, loss, optimizer = parts["network"].train(), parts["loss"], parts["optimizer"]
    prepare, inferer, average = (parts[key] for key in ("train::prepare", "train::inferer", "average"))
    clip = ClipGradients(network, parts["clip_gradient"])
    prepare.step, engine = 10**9, SimpleNamespace(state=SimpleNamespace(iteration=1000))  # the teacher teaches
    implants, negatives = 6, 6
    image = torch.randint(256, (16, 3, options.size, options.size), dtype=torch.uint8)
    mask = torch.zeros(16, 1, options.size, options.size, dtype=torch.int8)
    mask[:implants, :, :20, :20], mask[implants + negatives :] = 1, -1
    label = torch.ones(16)
    label[implants : implants + negatives] = 0
    batch = {"image": image, "mask": mask, "label": label}

    def step() -> None:
        x, target = prepare(batch, parts["device"])
        optimizer.zero_grad(set_to_none=True)
        loss(inferer(x, network), target).backward()
        clip(engine)
        optimizer.step()
        average.update(engine)

    return step


def profiled(step: Callable[[], None], options: argparse.Namespace) -> dict[str, Any]:
    """Share of each operator's own time, and of the machine's arithmetic that the convolutions reach."""
    # Forward passes as they are counted, those of the teacher included. A backward pass is two forward ones: what is
    # counted of it knows no groups.
    network = BundleParts("ich_segmentation", "train_recommended.yaml", {"encoder_weights": None})["network"]
    flops = forward_flops(step) + 2 * forward_flops(lambda: network(torch.rand(16, 3, options.size, options.size)))
    with torch.profiler.profile() as seen:
        for _ in range(options.steps):
            step()
    events = seen.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    shares = {event.key: event.self_cpu_time_total / whole for event in events}
    most = sorted(shares, key=lambda name: -shares[name])[:SHOWN]
    conv = sum(event.self_cpu_time_total for event in events if "conv" in event.key) * 1e-6 / options.steps
    return {
        "shares": {name: round(shares[name], 3) for name in most},
        "convolutions_gflop_per_step": round(flops / 1e9, 1),
        "convolutions_gflop_per_s": round(flops / conv / 1e9, 1),
        "matrix_product_gflop_per_s": round(peak() / 1e9, 1),
    }


def forward_flops(step: Callable[[], Any]) -> int:
    """FLOP of the convolutions that run forward in a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_flop_counts()["Global"][torch.ops.aten.convolution])


def peak() -> float:
    """FLOP a second of a large matrix product."""
    a, seconds = torch.rand(2048, 2048), []
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


def repeated(step: Callable[[], None], times: int) -> Callable[[], None]:
    """Several steps as one."""

    def steps() -> None:
        for _ in range(times):
            step()

    return steps


if __name__ == "__main__":
    main()
