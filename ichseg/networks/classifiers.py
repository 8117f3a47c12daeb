"""Slice classifiers with named stages, and a pair of them as one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.networks.nets import resnet34, resnet50
from torch import nn

from ichseg.errors import IchsegError
from ichseg.networks.weights import load_weights

# Backbone -> (constructor, module paths of CAM layer 1 and CAM layer 2).
_BACKBONES = {
    "resnet34": (resnet34, ("layer1", "layer2")),
    "resnet50": (resnet50, ("layer1", "layer2")),
}
BACKBONES = tuple(_BACKBONES)


def slice_classifier(backbone: str = "resnet34", num_classes: int = 2, in_channels: int = 1) -> nn.Module:
    """A 2-D slice classifier, (B, in_channels, H, W) -> logits (B, num_classes).

    The stem has stride 2, so that layer1 and layer2 are a quarter and an eighth of the input, as in the paper
    (96 x 96 and 48 x 48 at 384 x 384); MONAI's default stride of 1 would double both.

    Raises:
        IchsegError: unknown backbone.
    """
    constructor, _ = _lookup(backbone)
    return constructor(
        spatial_dims=2,
        n_input_channels=in_channels,
        num_classes=num_classes,
        conv1_t_stride=2,
        pretrained=False,
    )


def cam_layers(backbone: str) -> tuple[str, str]:
    """Module paths of CAM layer 1 and CAM layer 2 of a backbone."""
    return _lookup(backbone)[1]


class ClassifierEnsemble(nn.Module):
    """Several slice classifiers as one: (B, 1, H, W) -> mean softmax (B, num_classes) (decision D11).

    Args:
        networks: the classifiers; they stay reachable as ``networks``.
        layers: module paths of CAM layer 1 and 2 of each classifier; kept as ``cam_layers``.
    """

    def __init__(self, networks: Sequence[nn.Module], layers: Sequence[Sequence[str]] = ()) -> None:
        super().__init__()
        if not networks:
            raise IchsegError("an ensemble needs at least one classifier")
        self.networks = nn.ModuleList(networks)
        self.cam_layers = [list(names) for names in layers]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(x).softmax(dim=1) for network in self.networks]).mean(dim=0)


def load_ensemble(classifiers: Mapping[str, str | Path]) -> ClassifierEnsemble:
    """Backbone name -> weight file, as one ensemble in evaluation mode.

    Raises:
        IchsegError: a file is missing or belongs to another backbone.
    """
    networks = [load_weights(slice_classifier(name), path) for name, path in classifiers.items()]
    return ClassifierEnsemble(networks, [cam_layers(name) for name in classifiers]).eval()


def _lookup(backbone: str):
    try:
        return _BACKBONES[backbone]
    except KeyError:
        raise IchsegError(f"backbone '{backbone}' is unknown; choose one of {', '.join(BACKBONES)}") from None
