"""Masks where they are known, slice labels everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ichseg.networks import suspicion


class WeakSegmentationLoss(nn.Module):
    """A loss of masks, plus cross entropy between the slice label and the most suspicious pixels (multiple instances).

    A slice labeled positive has hemorrhage somewhere: its most suspicious ``share`` of pixels is asked to be some. One
    labeled negative has none: its most suspicious are asked not to be. So slice labels teach what is real where no mask
    does.

    Args:
        loss: of logits (B, 2, H, W) and masks (B, 1, H, W), for the slices whose mask is known.
        weight: of the slice labels; 0: ``loss`` alone.
        share: of a slice's pixels whose mean logit stands for the slice.

    Raises:
        ValueError: a weight below 0, or a share that is none.
    """

    def __init__(self, loss: nn.Module, weight: float = 0.0, share: float = 0.0015) -> None:
        super().__init__()
        if weight < 0 or not 0 < share <= 1:
            raise ValueError(f"weight must be at least 0 and share between 0 and 1, not {weight} and {share}")
        self.loss, self.weight, self.share = loss, weight, share

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(B, 2, H, W) logits and (B, 1, H, W) masks -> scalar; a mask of -1: it bleeds nobody knows where."""
        known = mask.flatten(1).amin(dim=1) >= 0
        total = self.loss(logits[known], mask[known]) if known.any() else 0.0 * logits.sum()
        if self.weight:
            most = suspicion(logits[:, 1] - logits[:, 0], self.share)
            bleeds = (mask.flatten(1).abs().amax(dim=1) > 0).to(most.dtype)
            total = total + self.weight * nn.functional.binary_cross_entropy_with_logits(most, bleeds)
        return torch.as_tensor(total)
