"""Slice classifiers with named stages, and a pair of them as one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DenseNet121, DenseNet169, resnet34, resnet50
from torch import nn

from ichseg.context import vote as vote_of
from ichseg.defaults import BACKBONES
from ichseg.errors import IchsegError
from ichseg.networks.convnext import ConvNeXtV2
from ichseg.networks.lite_classifier import LiteClassifier
from ichseg.networks.vgg import VGG
from ichseg.networks.weights import check_settings, load_weights, read_settings, with_overrides


@dataclass(frozen=True)
class _Backbone:
    """How to build a classifier, and its stages from the shallowest on."""

    build: Callable[[int, int], nn.Module]  # (in_channels, num_classes) -> network
    stages: tuple[str, ...]
    first: int = 0  # which of them is CAM layer 1; CAM layer 2 follows
    deepest: str = ""  # the last convolutional output, where Grad-CAM is usually taken


def _resnet(build: Callable[..., nn.Module], in_channels: int, num_classes: int) -> nn.Module:
    # MONAI's default stride of 1 in the stem would double the size of every stage.
    return build(
        spatial_dims=2, n_input_channels=in_channels, num_classes=num_classes, conv1_t_stride=2, pretrained=False
    )


def _densenet(build: Callable[..., nn.Module], in_channels: int, num_classes: int) -> nn.Module:
    return build(spatial_dims=2, in_channels=in_channels, out_channels=num_classes)


_RESNET = ("layer1", "layer2", "layer3", "layer4")
_DENSENET = tuple(f"features.denseblock{n}" for n in range(1, 5))
# VGG: the pooling layers that end the stages (decision D19: the authors of LayerCAM hook these, and a
# convolution's own output is overwritten by the ReLU after it).
_BACKBONES = {
    "resnet34": _Backbone(partial(_resnet, resnet34), _RESNET),
    "resnet50": _Backbone(partial(_resnet, resnet50), _RESNET),
    "densenet121": _Backbone(partial(_densenet, DenseNet121), _DENSENET, deepest="features.norm5"),
    "densenet169": _Backbone(partial(_densenet, DenseNet169), _DENSENET, deepest="features.norm5"),
    "vgg16": _Backbone(partial(VGG, 16), tuple(f"features.{n}" for n in (4, 9, 16, 23, 30)), 1, "features.29"),
    "vgg19": _Backbone(partial(VGG, 19), tuple(f"features.{n}" for n in (4, 9, 18, 27, 36)), 1, "features.35"),
    "efficientnet_lite0": _Backbone(LiteClassifier, tuple(f"_blocks.{n}" for n in (2, 4, 10, 15)), 0, "activation"),
    "convnextv2_tiny": _Backbone(ConvNeXtV2, tuple(f"stages.{n}" for n in range(4))),
}


def slice_classifier(backbone: str = "resnet34", num_classes: int = 2, in_channels: int = 1) -> nn.Module:
    """A 2-D slice classifier, (B, in_channels, H, W) -> logits (B, num_classes), with random weights.

    CAM layer 1 and CAM layer 2 are a quarter and an eighth of the input in all of them, as in the paper (96 x 96 and
    48 x 48 at 384 x 384).

    Args:
        backbone: one of :data:`BACKBONES`.
        num_classes: logits.
        in_channels: of the image.

    Raises:
        IchsegError: unknown backbone.
    """
    return _lookup(backbone).build(in_channels, num_classes)


def cam_layers(backbone: str) -> tuple[str, str]:
    """Module paths of CAM layer 1 and CAM layer 2 of a backbone: the paper's stages."""
    first, second = stages(backbone, 2)
    return first, second


def stages(backbone: str, count: int | None = None) -> list[str]:
    """Module paths of the first ``count`` stages of a backbone from CAM layer 1 on; all of them if None."""
    backbone_ = _lookup(backbone)
    shown = backbone_.stages[backbone_.first :]
    return list(shown if count is None else shown[:count])


def deepest_layer(backbone: str) -> str:
    """Module path of the last convolutional output: where Grad-CAM and Score-CAM are usually taken."""
    backbone_ = _lookup(backbone)
    return backbone_.deepest or backbone_.stages[-1]


class ClassifierEnsemble(nn.Module):
    """Several slice classifiers as one: (B, 1, H, W) -> probabilities (B, 2) of background and hemorrhage.

    Args:
        networks: the classifiers, of any making, each (B, 1, H, W) -> logits (B, 2); they stay reachable as
            ``networks``.
        layers: module paths of CAM layer 1 and 2 of each classifier; kept as ``cam_layers``.
        vote: how they agree, see :func:`ichseg.context.vote` (decision D11).
    """

    def __init__(self, networks: Sequence[nn.Module], layers: Sequence[Sequence[str]] = (), vote: str = "mean") -> None:
        super().__init__()
        if not networks:
            raise IchsegError("an ensemble needs at least one classifier")
        self.networks = nn.ModuleList(networks)
        self.cam_layers = [list(names) for names in layers]
        self.vote = vote

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = torch.stack([network(x).softmax(dim=1)[:, 1] for network in self.networks])
        positive = vote_of(each, self.vote)
        return torch.stack([1 - positive, positive], dim=1)


@dataclass(frozen=True)
class ClassifierSettings:
    """All that must be known of a slice classifier to use its weights; it travels in the weight file.

    Attributes:
        backbone: one of :data:`BACKBONES`.
        size: pixels per side of the network's slices.
        window_level, window_width: HU.
        strip_skull: True: nothing but the brain was shown to the network.
    """

    backbone: str
    size: int
    window_level: float
    window_width: float
    strip_skull: bool = False

    def __post_init__(self) -> None:
        check_settings(self, size=(1, inf), window_width=(1, inf))


def classifier_settings(classifiers: Mapping[str, str | Path], **overrides: Any) -> ClassifierSettings:
    """The settings that all classifiers of an ensemble share, with explicit values in place of some; None leaves one.

    No file is read if every value is given, which networks of your own need.

    Args:
        classifiers: backbone name -> weight file.
        **overrides: by name of :class:`ClassifierSettings`.

    Raises:
        IchsegError: a file has no settings, or the classifiers were trained with different ones.
    """
    shared = ("size", "window_level", "window_width", "strip_skull")
    if all(overrides.get(name) is not None for name in shared):
        return ClassifierSettings(backbone="+".join(classifiers), **overrides)
    if not classifiers:
        raise IchsegError(f"without weight files of classifiers, give {', '.join(shared)}")
    every = {file: read_settings(file, ClassifierSettings) for file in classifiers.values()}
    first_file, first = next(iter(every.items()))
    for file, other in every.items():
        for name in shared:
            if getattr(other, name) != getattr(first, name) and overrides.get(name) is None:
                raise IchsegError(
                    f"{file}: trained with {name} {getattr(other, name)}, but {first_file} with {getattr(first, name)}"
                )
    return with_overrides(first, overrides, first_file)


def load_ensemble(classifiers: Mapping[str, str | Path], vote: str = "mean") -> ClassifierEnsemble:
    """Backbone name -> weight file, as one ensemble in evaluation mode.

    Args:
        classifiers: any pair (the paper: ResNet34 and ResNet50), or one.
        vote: as in :class:`ClassifierEnsemble`.

    Raises:
        IchsegError: a file is missing or belongs to another backbone.
    """
    networks = [load_weights(slice_classifier(name), path) for name, path in classifiers.items()]
    return ClassifierEnsemble(networks, [cam_layers(name) for name in classifiers], vote).eval()


def _lookup(backbone: str) -> _Backbone:
    try:
        return _BACKBONES[backbone]
    except KeyError:
        raise IchsegError(f"backbone '{backbone}' is unknown; choose one of {', '.join(BACKBONES)}") from None
