"""AE, "automated ensemble" (Ostrowski, Prabakaran, Shafique 2023): Grad-CAM masks of two classifiers, combined.

Each map gets its own low threshold: low ones miss little, and different networks err in different places. Which
combination is best on validation scans is chosen from four (decision D27; the authors report all of them). No U-Net
follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PAPER_RULE, PAPER_THRESHOLD = "and", 0.15  # what Ma et al. 2025 used for both networks


def _larger(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(_area(one) >= _area(other), one, other)


def _smaller(one: Tensor, other: Tensor) -> Tensor:
    return torch.where(_area(one) <= _area(other), one, other)


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "and": torch.logical_and,
    "or": torch.logical_or,
    "larger": _larger,
    "smaller": _smaller,
}


def combined_masks(maps: Sequence[Tensor], thresholds: Sequence[float], rule: str = PAPER_RULE) -> Tensor:
    """Masks of two networks, combined slice by slice.

    Args:
        maps: two of (n, H, W) in [0, 1]; a map of zeros gives an empty mask.
        thresholds: one per network, strict.
        rule: ``"and"``, ``"or"``, ``"larger"`` (the mask with more pixels) or ``"smaller"``.

    Returns:
        (n, H, W) bool.

    Raises:
        ValueError: not two maps of one shape and two thresholds, or an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not '{rule}'")
    if len(maps) != 2 or len(thresholds) != 2 or maps[0].shape != maps[1].shape:
        raise ValueError("expected two maps of one shape and two thresholds")
    return RULES[rule](*(one > threshold for one, threshold in zip(maps, thresholds, strict=True)))


def dice_from_miou(miou: float) -> float:
    """What the authors' evaluator calls DSC: ``2 mIoU / (1 + mIoU)``; it is no lesion Dice (mIoU .547 gives .707)."""
    return 2 * miou / (1 + miou)


def _area(mask: Tensor) -> Tensor:
    return mask.sum(dim=(-2, -1), keepdim=True)
