"""Which pixels are sure, and which pairs of them belong together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ichseg.crf import DenseCRF, score_probabilities
from ichseg.methods.pairs import inside, shifted

IGNORED = 255


def background_score(maps: Tensor, power: float) -> Tensor:
    """(C, h, w) in [0, 1] -> (h, w): ``(1 - max_c map)^power``; the larger the power, the weaker the background.

    Hemorrhage wins where its map exceeds .2755 for a power of 4, .188 for 8, .123 for 16, .077 for 32.
    """
    return (1 - maps.amax(dim=0)) ** power


def affinity_labels(strong: Tensor, weak: Tensor) -> Tensor:
    """Sure pixels of two CRF results, one with a strong background (power 4), one with a weak one (power 32).

    Args:
        strong, weak: (1 + C, h, w), background first.

    Returns:
        (h, w) int64: the class where it wins against the strong background, 0 where even the weak background wins,
        and :data:`IGNORED` elsewhere and where there is no score at all.
    """
    if strong.shape != weak.shape or strong.ndim != 3:
        raise ValueError(f"expected two results (1 + C, h, w), not {tuple(strong.shape)} and {tuple(weak.shape)}")
    label = strong.argmax(dim=0)
    label = torch.where((label == 0) & (weak.argmax(dim=0) != 0), IGNORED, label)
    return torch.where((strong.sum(dim=0) == 0) | (weak.sum(dim=0) == 0), IGNORED, label)


def pair_labels(labels: Tensor, offsets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs alike in background, alike in a class, and different, each (..., P, h, w) bool; ignored pixels are in none.

    Args:
        labels: (..., h, w) of :func:`affinity_labels`.
        offsets: of :func:`ichseg.methods.pairs.half_disc`.
    """
    partner = torch.stack([shifted(labels, offset, IGNORED) for offset in offsets], dim=-3)
    valid = torch.stack([inside(labels.shape[-2:], offset) for offset in offsets]).to(labels.device)
    own = labels.unsqueeze(-3).expand_as(partner)
    known = valid & (own != IGNORED) & (partner != IGNORED)
    same = known & (own == partner)
    return same & (own == 0), same & (own > 0), known & (own != partner)


def seed_labels(maps: Tensor, images: Tensor, grid: Sequence[int], crf: DenseCRF, powers: Sequence[float]) -> Tensor:
    """Labels of the pairs' pixels from class maps: two CRF results, averaged over the cells of a grid.

    Args:
        maps: (B, h, w) in [0, 1].
        images: (B, 1, H, W) in [0, 1].
        grid: rows and columns of the labels.
        crf: of the full slice.
        powers: of the strong and the weak background.

    Returns:
        (B, rows, columns) of :func:`affinity_labels`; a slice whose map is zero everywhere is ignored.
    """
    score = functional.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
    both = [
        functional.adaptive_avg_pool2d(crf.refine(score_probabilities(score, power), images * 255), (grid[0], grid[1]))
        for power in powers
    ]
    labels = torch.stack([affinity_labels(strong, weak) for strong, weak in zip(*both, strict=True)])
    labels[maps.amax(dim=(1, 2)) == 0] = IGNORED
    return labels
