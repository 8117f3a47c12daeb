"""The segmenting network alone, in the ways it can be run, in milliseconds per slice. Prints one JSON line.

    python benchmarks/network.py                              # CPU: torch, bf16, openvino, onnxruntime, torch.compile
    python benchmarks/network.py --device cuda                # GPU: torch, bf16, torch.compile, TensorRT if it is there
    python benchmarks/network.py --only torch openvino        # some of them
    python benchmarks/network.py --weights unet.pt

A scan goes through as in a folder run: slice by slice on every core, or 16 slices at once on a GPU. The ways take
turns. Each is compared with torch in fp32: the largest difference of a logit, and the share of pixels that are
hemorrhage by one and not by the other. A way that cannot be had here says why.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from measuring import commit, in_turns, machine, medians, processor_times, ratio, steal_share
from slices import head_slices
from torch import Tensor, nn

from ichseg.bundle import weight_file
from ichseg.devices import place, slices_per_pass
from ichseg.inference import PrecisionInferer, SliceBatchInferer
from ichseg.networks import load_weights, on_backend, segmenter_of, segmenter_settings

Way = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--slices", type=int, default=16, help="of the scan (default: 16)")
    parser.add_argument("--rounds", type=int, default=15, help="timings per way (default: 15)")
    parser.add_argument("--weights", help="weight file (default: the model shipped with ichseg)")
    parser.add_argument("--only", nargs="+", choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    device, times = torch.device(options.device), processor_times()
    weights = weight_file(options.weights)
    settings = segmenter_settings(weights)
    network = place(load_weights(segmenter_of(settings), weights), device).eval()
    gray = head_slices(None, settings.size, options.slices).to(device) / 255
    slices = gray.repeat(1, settings.in_channels, 1, 1).contiguous(memory_format=torch.channels_last)
    scan, run = slices.movedim(0, -1)[None], SliceBatchInferer()  # as a folder is segmented
    example = slices[: slices_per_pass(None, device, on_cpu=1)]
    with torch.no_grad():
        ways, lacking = made(options.only or list(WAYS), network, example, settings.in_channels)
        warm(list(ways.values()), scan)
        seconds = in_turns({name: partial(run, scan, way) for name, way in ways.items()}, options.rounds, device)
        expected = run(scan, network)
        close = {name: difference(run(scan, way), expected) for name, way in ways.items()}
    report: dict[str, Any] = {"benchmark": "network", "commit": commit(), "machine": machine(device)}
    report |= {"architecture": settings.architecture, "size": settings.size, "slices": options.slices}
    report |= {"threads": torch.get_num_threads(), "ms_per_slice": medians(seconds, options.slices)}
    if "torch" in seconds:
        report["times_faster"] = {name: ratio(seconds, "torch", name) for name in seconds if name != "torch"}
    print(json.dumps({**report, "to_torch": close, "lacking": lacking, "steal": steal_share(times, processor_times())}))


def made(names: list[str], network: nn.Module, image: Tensor, channels: int) -> tuple[dict[str, Way], dict[str, str]]:
    """The ways that can be had, and why the others cannot."""
    ways, lacking = {}, {}
    for name in names:
        try:
            way = WAYS[name](network, image, channels)
            way(image)
        except Exception as error:  # whatever a compiler does where it does not work
            lacking[name] = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        else:
            ways[name] = way
    return ways, lacking


def warm(ways: list[Way], scan: Tensor) -> None:
    """Each once in a thread like those that do the work: there the compiler compiles again, and not for two at once."""

    def run() -> None:
        torch.set_num_threads(1)
        with torch.no_grad():
            for way in ways:
                SliceBatchInferer(workers=1)(scan, way)

    if scan.device.type == "cpu":
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run).result()


def difference(found: Tensor, expected: Tensor) -> dict[str, float]:
    """The largest of a logit, and the share of pixels on the other side."""
    found, expected = found.float(), expected.float()
    bleeding = [(one[:, 1] > one[:, 0]) for one in (found, expected)]
    return {"logit": float(f"{float((found - expected).abs().max()):.2g}"),
            "pixels": float(f"{float((bleeding[0] != bleeding[1]).float().mean()):.2g}")}  # fmt: skip


def _lowered(network: nn.Module, image: Tensor, channels: int) -> Way:
    inferer = PrecisionInferer("bf16")
    return lambda x: inferer(x, network)


def _compiled(mode: str, precision: str) -> Callable[[nn.Module, Tensor, int], Way]:
    def make(network: nn.Module, image: Tensor, channels: int) -> Way:
        if mode == "reduce-overhead" and image.device.type != "cuda":
            raise ValueError("CUDA graphs need a GPU")
        inferer, faster = PrecisionInferer(precision), torch.compile(network, mode=mode)
        return lambda x: inferer(x, faster).clone()

    return make


def _other(backend: str, precision: str = "fp32") -> Callable[[nn.Module, Tensor, int], Way]:
    def make(network: nn.Module, image: Tensor, channels: int) -> Way:
        return on_backend(network, backend, channels, image.device, precision)

    return make


def _tensorrt(network: nn.Module, image: Tensor, channels: int) -> Way:
    if importlib.util.find_spec("torch_tensorrt") is None:
        raise ImportError("torch_tensorrt is not installed")
    import torch_tensorrt

    return torch_tensorrt.compile(network, ir="dynamo", inputs=[image])


WAYS: dict[str, Callable[[nn.Module, Tensor, int], Way]] = {
    "torch": lambda network, image, channels: network,
    "torch bf16": _lowered,
    "compiled": _compiled("default", "fp32"),
    "compiled bf16": _compiled("default", "bf16"),
    "CUDA graphs": _compiled("reduce-overhead", "fp32"),
    "CUDA graphs bf16": _compiled("reduce-overhead", "bf16"),
    "TensorRT": _tensorrt,
    "openvino": _other("openvino"),
    "openvino bf16": _other("openvino", "bf16"),
    "onnxruntime": _other("onnxruntime"),
}

if __name__ == "__main__":
    main()
