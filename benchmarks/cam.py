"""Maps against one forward and one backward pass of the same network, and against other packages. Prints one JSON line.

    python benchmarks/cam.py                                    # ResNet34, 8 slices of 384 pixels, CPU
    python benchmarks/cam.py --backbone resnet50 --device cuda --slices 32

The pass goes from the slices to the logit of hemorrhage and back to the shallower of the two layers, without gradients
of weights: less cannot give a gradient there. Ours and the others make maps of both layers; 'shallow_feature_cam' is
the whole transform, with probabilities, gate, principal component, and amplifier. Other packages are measured if they
are there: 'pip install torchcam==0.5.0 grad-cam'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import commit, in_turns, machine, medians, processor_times, ratio, steal_share
from slices import head_slices
from torch import Tensor, nn

from ichseg.cam import CAMExtractor
from ichseg.networks import BACKBONES, cam_layers, slice_classifier
from ichseg.transforms import ShallowFeatureCAM

PASS = "forward and backward"
OURS = ("grad_cam", "grad_cam++", "layer_cam")
Side = Callable[[], Any]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet34", choices=BACKBONES, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--size", type=int, default=384, help="edge length of a slice (default: 384)")
    parser.add_argument("--slices", type=int, default=8, help="slices of a pass (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="timings per side (default: 5)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    device, times = torch.device(options.device), processor_times()
    torch.manual_seed(0)
    network = slice_classifier(options.backbone).to(device).eval()
    layers = cam_layers(options.backbone)
    slices = (head_slices(None, options.size, options.slices) / 255).to(device)
    sides = {PASS: there_and_back(network, layers, slices), **ours(network, layers, slices)}
    sides |= torchcams(options.backbone, network, layers, slices) | grad_cams(network, layers, slices)
    seconds = in_turns(sides, options.rounds, device)
    report: dict[str, Any] = {"benchmark": "cam", "commit": commit(), "machine": machine(device)}
    report |= {name: getattr(options, name) for name in ("backbone", "size", "slices", "rounds")}
    report |= {"threads": torch.get_num_threads(), "ms_per_slice": medians(seconds, options.slices)}
    report["times_the_pass"] = {name: ratio(seconds, name, PASS) for name in sides if name != PASS}
    print(json.dumps({**report, "steal": steal_share(times, processor_times())}))


def there_and_back(network: nn.Module, layers: Sequence[str], slices: Tensor) -> Side:
    """From the slices to the logit and back to the first layer, no gradients of weights."""

    def run() -> Tensor:
        held: list[Tensor] = []

        def hold(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            held.append(output.detach().requires_grad_())
            return held[0]

        frozen = [(weight, weight.requires_grad) for weight in network.parameters()]
        hook = network.get_submodule(layers[0]).register_forward_hook(hold)
        try:
            network.requires_grad_(False)
            with torch.enable_grad():
                return torch.autograd.grad(network(slices)[:, 1].sum(), held)[0]
        finally:
            hook.remove()
            for weight, needed in frozen:
                weight.requires_grad_(needed)

    return run


def ours(network: nn.Module, layers: Sequence[str], slices: Tensor) -> dict[str, Side]:
    """The extractor, and the transform that makes pseudo-labels."""

    def extracted(method: str) -> Side:
        def run() -> Any:
            with CAMExtractor(network, layers, method) as extractor:
                return extractor(slices)

        return run

    volume = slices.movedim(0, -1)  # (1, X, Y, slices)
    whole = ShallowFeatureCAM(network, layers, gate=0.0, device=slices.device, batch_size=len(slices))
    sides = {f"ichseg {method}": extracted(method) for method in OURS}
    return {**sides, "ichseg shallow_feature_cam": lambda: whole(volume)}


def torchcams(backbone: str, network: nn.Module, layers: Sequence[str], slices: Tensor) -> dict[str, Side]:
    """torchcam's, if it is there; its hooks stay on a network of its own."""
    if importlib.util.find_spec("torchcam") is None:
        return {}
    from torchcam.methods import GradCAM, GradCAMpp, LayerCAM

    def run_of(kind: Any) -> Side:
        own = slice_classifier(backbone).to(slices.device).eval()
        own.load_state_dict(network.state_dict())
        extractor = kind(own, list(layers), enable_hooks=True)

        def run() -> Any:
            logits = own(slices.requires_grad_())
            return extractor(1, logits, normalized=False)

        return run

    return {f"torchcam {kind.__name__}": run_of(kind) for kind in (GradCAM, GradCAMpp, LayerCAM)}


def grad_cams(network: nn.Module, layers: Sequence[str], slices: Tensor) -> dict[str, Side]:
    """pytorch-grad-cam's, if it is there."""
    try:
        import pytorch_grad_cam as package
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:  # it needs torchvision, too
        return {}

    wanted, modules = [ClassifierOutputTarget(1)] * len(slices), [network.get_submodule(name) for name in layers]

    def run_of(kind: Any) -> Side:
        def run() -> Any:
            with kind(model=network, target_layers=modules) as extractor:
                return extractor(input_tensor=slices, targets=wanted)

        return run

    return {f"pytorch-grad-cam {kind.__name__}": run_of(kind)
            for kind in (package.GradCAM, package.GradCAMPlusPlus, package.LayerCAM)}  # fmt: skip


if __name__ == "__main__":
    main()
