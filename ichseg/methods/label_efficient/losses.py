"""The loss of fine-tuning, and the Dice the authors report."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

EMPTY_WEIGHT = 0.2


class MaskLoss(nn.Module):
    """``1 - (2 sum(p m) + 1) / (sum(p^2) + sum(m^2) + 1)`` per image; images with an empty mask count less.

    Args:
        empty: weight of an image whose mask is empty (the authors' alpha).
    """

    def __init__(self, empty: float = EMPTY_WEIGHT) -> None:
        super().__init__()
        self.empty = empty

    def forward(self, probabilities: Tensor, masks: Tensor) -> Tensor:
        """(B, 1, H, W) probabilities and masks -> scalar, the mean over the batch."""
        p, m = probabilities.flatten(1), masks.flatten(1).to(probabilities)
        loss = 1 - (2 * (p * m).sum(dim=1) + 1) / (p.square().sum(dim=1) + m.square().sum(dim=1) + 1)
        return (loss * (m.sum(dim=1) > 0).to(loss).clamp(min=self.empty)).mean()


def volume_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """``(2 TP + 1) / (2 TP + FP + FN + 1)`` over a whole scan: 1 where both are empty, as nowhere else here."""
    found, true = np.asarray(prediction) > 0, np.asarray(truth) > 0
    hits, others = int((found & true).sum()), int((found ^ true).sum())
    return (2 * hits + 1) / (2 * hits + others + 1)
