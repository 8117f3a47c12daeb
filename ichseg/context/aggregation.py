"""From the maps of two layers to one binary mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RULES = ("or", "and", "mean")


def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, h, w) -> (n, H, W), bilinear, corners not aligned."""
    return torch.nn.functional.interpolate(maps[:, None].float(), tuple(size), mode="bilinear", align_corners=False)[
        :, 0
    ]


def aggregate(maps: Sequence[Tensor], threshold: float, size: Sequence[int], rule: str = "or") -> Tensor:
    """Bi-layer aggregation: ``any`` (or ``all``) layer strictly above the threshold.

    Args:
        maps: one (n, h, w) per layer, sizes may differ.
        threshold: strict; the paper's best are .17 (BHSD) and .22 (BCIHM).
        size: (H, W) of the mask.
        rule: ``"or"``, the paper's choice, ``"and"``, or ``"mean"`` of the layers.

    Returns:
        (n, H, W) bool.
    """
    return combined_score(maps, size, rule) > threshold


def combined_score(maps: Sequence[Tensor], size: Sequence[int], rule: str = "or") -> Tensor:
    """(n, H, W): largest (``"or"``), smallest (``"and"``) or mean upsampled layer; above TH means in the mask."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not '{rule}'")
    if not maps:
        raise ValueError("aggregate needs the maps of at least one layer")
    stacked = torch.stack([upsample(m, size) for m in maps])
    if rule == "mean":
        return stacked.mean(dim=0)
    return stacked.amax(dim=0) if rule == "or" else stacked.amin(dim=0)
