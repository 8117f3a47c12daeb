"""Local contrastive learning: a region is most like itself in the other view.

The global task compares whole images; MONAI's ``ContrastiveLoss(temperature=0.1)`` is its loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

REGION = 3  # pixels of the feature map per side
TEMPERATURE = 0.1


def region_vectors(features: Tensor, places: Sequence[tuple[int, int]], region: int = REGION) -> Tensor:
    """(B, C, h, w) -> (B, R, C region^2): the features of each region, one after the other.

    Args:
        features: of one view.
        places: upper left corners (row, column) of the regions.
        region: side.
    """
    parts = [features[:, :, y : y + region, x : x + region].flatten(1) for y, x in places]
    if any(part.shape[1] != features.shape[1] * region * region for part in parts):
        raise ValueError("a region lies beyond the feature map")
    return torch.stack(parts, dim=1)


def local_contrastive_loss(one: Tensor, other: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE over the regions of each image: positive is the same region of the other view, negatives are the other
    regions of both views of the same image.

    Args:
        one, other: (B, R, D) of two views, regions in the same order.
        temperature: of the cosine similarities.

    Returns:
        scalar, the mean over regions, views and images.
    """
    if one.shape != other.shape or one.ndim != 3:
        raise ValueError(f"expected two (B, R, D), not {tuple(one.shape)} and {tuple(other.shape)}")
    regions = one.shape[1]
    both = functional.normalize(torch.cat([one, other], dim=1), dim=2)
    similarity = both @ both.transpose(1, 2) / temperature
    itself = torch.eye(2 * regions, dtype=torch.bool, device=one.device)
    similarity = similarity.masked_fill(itself, float("-inf"))
    target = torch.arange(2 * regions, device=one.device).roll(regions).expand(len(one), -1)
    return functional.cross_entropy(similarity.flatten(0, 1), target.flatten())
