"""A trained ResNet slice classifier, dense: its later stages keep their resolution, and its CAM comes along.

AffinityNet, IRNet, EDAM and RCA start from one. Where the authors take ResNet38 or VGG16, it is the classifier that the
comparison trains for all of them (decisions D24 to D26).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

STRIDES = (8, 16)
LEFT_RIGHT = -2  # of slices as they are stored: rows run to the left


class DenseResNet(nn.Module):
    """(B, 1, H, W) -> features of the stem and of the four stages, the last at 1 / ``stride`` of the slice.

    A stage that would halve is dilated instead (the "à trous" way): its weights fit as they are, and every
    32 / ``stride``-th pixel is what the classifier saw.

    Args:
        classifier: a ResNet of :func:`ichseg.networks.slice_classifier`; it is copied.
        stride: 8 or 16.

    Raises:
        ValueError: another stride.
    """

    def __init__(self, classifier: nn.Module, stride: int = 8) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise ValueError(f"stride must be one of {STRIDES}, not {stride}")
        self.network: Any = copy.deepcopy(classifier)
        rate = 1
        stages: list[Any] = [self.network.layer3, self.network.layer4]
        for stage in stages[0 if stride == 8 else 1 :]:
            rate = _dilated(stage, rate)
        self.channels = [_width(self.network, name) for name in ("layer1", "layer2", "layer3", "layer4")]

    def forward(self, x: Tensor) -> list[Tensor]:
        network = self.network
        found = [network.maxpool(network.act(network.bn1(network.conv1(x))))]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            found.append(stage(found[-1]))
        return found

    def cam(self, last: Tensor) -> Tensor:
        """(B, K, h, w) of the last stage -> (B, h, w): its part in the logit of hemorrhage, less that in background."""
        weight = self.network.fc.weight
        return torch.einsum("bkhw,k->bhw", last, weight[1] - weight[0])


def relative(maps: Tensor) -> Tensor:
    """(..., h, w) -> positive parts divided by their maximum; zeros where nothing is positive."""
    positive = maps.clamp(min=0)
    peak = positive.amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak > 0, positive / peak.clamp(min=1e-12), 0)


@torch.no_grad()
def class_maps(network: DenseResNet, images: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, h, w) in [0, 1]: CAM of the slice and of its mirror image, averaged, by its maximum.

    The authors average over four scales as well; at the size of a lesion of a few pixels, halves show nothing.
    """
    both = network.cam(network(torch.cat([images, images.flip(LEFT_RIGHT)]))[-1])
    straight, mirrored = both.chunk(2)
    return relative(relative(straight) + relative(mirrored.flip(LEFT_RIGHT)))


def _dilated(stage: nn.Sequential, rate: int) -> int:
    """Let a stage keep its resolution; returns how far apart its taps are from now on."""
    for number, block in enumerate(stage):
        for layer in block.modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            if max(layer.kernel_size) > 1:
                # The first of a stage still sees the grid of the stage before.
                first = number == 0 and layer.stride != (1, 1)
                own = rate if first else 2 * rate
                layer.dilation, layer.padding = (own, own), (own, own)
            layer.stride = (1, 1)
    return 2 * rate


def _width(network: Any, name: str) -> int:
    last = [layer for layer in getattr(network, name)[-1].modules() if isinstance(layer, nn.Conv2d)]
    return int(last[-1].out_channels)
