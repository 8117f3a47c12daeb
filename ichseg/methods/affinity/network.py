"""Affinities of feature maps, and the loss that teaches them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.methods.affinity.labels import pair_labels
from ichseg.methods.dense_resnet import DenseResNet
from ichseg.methods.pairs import half_disc, shifted

SMALL = 1e-5  # before the logarithm
RADIUS = 5
SIDES, FEATURES = (64, 128, 256), 448  # channels of the three side branches, and of what becomes of them


class AffinityNetwork(nn.Module):
    """(B, 1, H, W) -> features (B, 448, h, w) at an eighth of the slice, whose distances are affinities.

    The last three stages of the classifier, each through a 1 x 1 convolution and ELU, side by side through another one.
    The authors train all of it; here the classifier stays as it is.

    Args:
        dense: the classifier, stride 8.
    """

    def __init__(self, dense: DenseResNet) -> None:
        super().__init__()
        self.dense = dense.requires_grad_(False)
        self.heads = nn.ModuleDict({
            "sides": nn.ModuleList(
                nn.Conv2d(before, after, 1, bias=False)
                for before, after in zip(dense.channels[1:], SIDES, strict=True)
            ),
            "joined": nn.Conv2d(sum(SIDES), FEATURES, 1, bias=False),
        })  # fmt: skip

    def train(self, mode: bool = True) -> AffinityNetwork:
        super().train(mode)
        self.dense.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            stages = self.dense(x)[2:]
        return self.features(stages)

    def features(self, stages: Sequence[Tensor]) -> Tensor:
        """Of the last three stages, all on one grid."""
        sides: Any = self.heads["sides"]
        found = [functional.elu(side(stage)) for side, stage in zip(sides, stages, strict=True)]
        return functional.elu(self.heads["joined"](torch.cat(found, dim=1)))


def pair_affinity(features: Tensor, offsets: Sequence[Sequence[int]]) -> Tensor:
    """``a_ij = exp(-mean_k |f_ki - f_kj|)`` of every pixel with its partners.

    Args:
        features: (B, K, h, w).
        offsets: of :func:`ichseg.methods.pairs.half_disc`.

    Returns:
        (B, P, h, w); what lies beyond the border means nothing.
    """
    return torch.stack([(-(features - shifted(features, o)).abs().mean(dim=1)).exp() for o in offsets], dim=1)


class AffinityLoss(nn.Module):
    """``L_bg+ / 4 + L_fg+ / 4 + L_- / 2``: pairs alike in background, in a class, and different ones.

    ``L+`` is the mean of ``-log(a + 1e-5)`` over its pairs, ``L-`` that of ``-log(1 - a + 1e-5)``; a kind without pairs
    counts nothing.

    Args:
        radius: pixels between the two of a pair, at most.
    """

    def __init__(self, radius: int = RADIUS) -> None:
        super().__init__()
        self.offsets = half_disc(radius)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, K, h, w) features and (B, h, w) labels of :func:`affinity_labels` -> scalar."""
        affinity = pair_affinity(features, self.offsets)
        kinds = pair_labels(labels, self.offsets)
        near, far = -(affinity + SMALL).log(), -(1 - affinity + SMALL).log()
        parts = [
            weight * (value * kind).sum() / kind.sum().clamp(min=1)
            for weight, value, kind in zip((0.25, 0.25, 0.5), (near, near, far), kinds, strict=True)
        ]
        return torch.stack(parts).sum()
