"""DropBlock (Ghiasi, Lin, Le, NeurIPS 2018): whole squares of a feature map are left out in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class DropBlock(nn.Module):
    """Zeros squares of a map and scales what is left up by the share that was kept; nothing in evaluation.

    One pattern per image, the same for all channels, as Viniavskyi et al. 2020 use it for chest X-rays; the correction
    of the seeds for the border is left out there as well.

    Args:
        probability: that a place is dropped, about: seeds fall with ``probability / block^2``.
        block: side of a square, odd.

    Raises:
        ValueError: a probability outside [0, 1), or an even block.
    """

    def __init__(self, probability: float = 0.2, block: int = 7) -> None:
        super().__init__()
        if not 0 <= probability < 1 or block < 1 or block % 2 == 0:
            raise ValueError(f"probability must be in [0, 1) and block odd, not {probability} and {block}")
        self.probability, self.block = probability, block

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if not self.training or not self.probability:
            return x
        seeds = torch.rand(len(x), 1, *x.shape[2:], device=x.device) < self.probability / self.block**2
        dropped = functional.max_pool2d(seeds.to(x), self.block, stride=1, padding=self.block // 2)
        kept = 1 - dropped
        # By what was really kept, image by image.
        share = kept.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1 / kept[0].numel())
        return x * kept / share


def with_dropblock(network: nn.Module, probability: float = 0.2, block: int = 7) -> nn.Module:
    """A ResNet slice classifier that drops squares after its third and fourth stage while it trains.

    Nothing is added that has weights: they load into the plain network. Without ``probability`` it stays as it is; the
    authors' configs for chest X-rays and VOC train that way, their article does not.

    Args:
        network: a ResNet of :func:`ichseg.networks.slice_classifier`; changed in place.
        probability, block: see :class:`DropBlock`.

    Returns:
        the network.
    """
    if probability:
        for stage in (network.layer3, network.layer4):
            stage.append(DropBlock(probability, block))  # type: ignore[operator, union-attr]
    return network
