"""Outlines where they are known, and whether the slice bleeds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ichseg.networks import SUSPICIOUS_SHARE, suspicion


class ContextLoss(nn.Module):
    """The loss of :class:`ichseg.networks.ContextUNet`: pixels, their most suspicious ones, and the slice's own score.

    Cross entropy and Dice over the pixels whose truth is known, all slices of the batch together (most are empty: Dice
    over the batch stays defined); cross entropy between the slice label and the mean of its most suspicious pixels
    (multiple instances: a slice that bleeds does so somewhere); and between the label and the slice's score.

    Args:
        cross_entropy, dice, instances, score: weights of the four.
        share: of a slice's pixels that count as its most suspicious.
    """

    def __init__(
        self,
        cross_entropy: float = 4.0,
        dice: float = 1.0,
        instances: float = 0.3,
        score: float = 0.5,
        share: float = SUSPICIOUS_SHARE,
    ) -> None:
        super().__init__()
        self.weights = cross_entropy, dice, instances, score
        self.share = share

    def forward(self, logits: Tensor, target: dict[str, Tensor]) -> Tensor:
        """(B, 3, H, W) logits and ``{"mask": (B, 1, H, W), "label": (B,)}`` -> scalar; -1 in a mask: not known."""
        pixels, score = (logits[:, 1] - logits[:, 0]).float(), logits[:, 2, 0, 0].float()
        mask, label = target["mask"][:, 0], target["label"]
        known, truth = (mask >= 0).float(), mask.clamp(min=0)
        entropy = binary_cross_entropy_with_logits(pixels, truth, reduction="none")
        entropy = (entropy * known).sum() / known.sum().clamp(min=1)
        found = pixels.sigmoid() * known
        overlap = (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1)
        instances = binary_cross_entropy_with_logits(suspicion(pixels, self.share), label)
        parts = entropy, 1 - overlap, instances, binary_cross_entropy_with_logits(score, label)
        return torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum()
