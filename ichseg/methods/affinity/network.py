"""Affinities of feature maps, and the loss that teaches them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ichseg.methods.affinity.labels import pair_labels
from ichseg.methods.pairs import half_disc, shifted

SMALL = 1e-5  # before the logarithm
RADIUS = 5


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
