"""HGI-SAM maps against the network's own forward and backward pass. Prints one JSON line.

    python benchmarks/hgi_sam.py                                # swin_tiny, one slice of 384 pixels, CPU
    python benchmarks/hgi_sam.py --variant swin_base --device cuda

The pass goes from the image to the logit of hemorrhage and back to the image, and keeps no gradients of weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from measuring import commit, in_turns, machine, medians, processor_times, ratio, steal_share

from ichseg.methods.hgi_sam import SwinSliceClassifier, hgi_sam_maps
from ichseg.methods.hgi_sam.network import SIZES, attention_bytes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=SIZES, default="swin_tiny", help="default: swin_tiny")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--size", type=int, default=384, help="pixels per side (default: 384)")
    parser.add_argument("--slices", type=int, default=1, help="slices of a batch (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="timings per side (default: 5)")
    options = parser.parse_args()
    device, times = torch.device(options.device), processor_times()
    network = SwinSliceClassifier(options.variant).to(device).eval().requires_grad_(False)
    images = torch.rand(options.slices, 3, options.size, options.size, device=device)
    sides: dict[str, Callable[[], Any]] = {
        "maps": lambda: hgi_sam_maps(images, network),
        "forward and backward": lambda: there_and_back(network, images),
    }
    seconds = in_turns(sides, options.rounds, device)
    print(json.dumps({
        "benchmark": "hgi_sam", "commit": commit(), "machine": machine(device), "variant": options.variant,
        "size": options.size, "slices": options.slices, "ms": medians(seconds, options.slices),
        "ratio": ratio(seconds, "maps", "forward and backward"),
        "attention_mb": round(attention_bytes(options.variant, (options.size, options.size)) / 1e6, 1),
        "steal": steal_share(times, processor_times()),
    }))  # fmt: skip


def there_and_back(network: torch.nn.Module, images: torch.Tensor) -> None:
    """To the logit of hemorrhage and back."""
    x = images.clone().requires_grad_(True)
    network(x)[:, 1].sum().backward()


if __name__ == "__main__":
    main()
