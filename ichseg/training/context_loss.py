"""Outlines where they are known, and whether the slice bleeds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ichseg.networks import SUSPICIOUS_SHARE, suspicion

IMPOSSIBLE = -20.0  # a logit


class ContextLoss(nn.Module):
    """The loss of :class:`ichseg.networks.ContextUNet`: pixels, their most suspicious ones, and the slice's own score.

    Cross entropy and Dice over the pixels whose truth is known, all slices of the batch together (most are empty: Dice
    over the batch stays defined); cross entropy between the slice label and the mean of its most suspicious pixels
    (multiple instances: a slice that bleeds does so somewhere); and between the label and the slice's score.

    Where a teacher's logits come with the target, the pixels and the score are also taught its probabilities (Hinton et
    al. 2015, at temperature 1).

    Args:
        cross_entropy, dice, instances, score: weights of the four.
        distillation: weight of the teacher's, in units of ``cross_entropy`` and ``score``.
        subtypes: weight of the hemorrhage subtypes, each a yes or no, where the network scores them.
        share: of a slice's pixels that count as its most suspicious.
    """

    def __init__(
        self,
        cross_entropy: float = 4.0,
        dice: float = 1.0,
        instances: float = 0.3,
        score: float = 0.5,
        distillation: float = 1.0,
        subtypes: float = 0.0,
        share: float = SUSPICIOUS_SHARE,
    ) -> None:
        super().__init__()
        self.weights = cross_entropy, dice, instances, score
        self.distillation, self.subtypes = distillation, subtypes
        self.share = share

    def forward(self, logits: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Scalar for (B, 3, H, W) logits, or more channels for subtypes, and their target.

        Args:
            logits: of the network.
            target: ``mask`` (B, 1, H, W), -1 where it is not known; ``label`` (B,); ``teacher`` (B, 3, H, W) logits, or
                absent; ``subtypes`` (B, subtypes) 0 or 1, -1 where it is not known, or absent.
        """
        pixels, score = (logits[:, 1] - logits[:, 0]).float(), logits[:, 2, 0, 0].float()
        mask, label = target["mask"][:, 0], target["label"]
        known, truth = (mask >= 0).float(), mask.clamp(min=0)
        entropy = binary_cross_entropy_with_logits(pixels, truth, reduction="none")
        entropy = (entropy * known).sum() / known.sum().clamp(min=1)
        found = pixels.sigmoid() * known
        overlap = (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1)
        # Where a part of the slice is known to be none, the hemorrhage is in the rest.
        elsewhere = (mask == 0) & (mask.flatten(1).amin(dim=1) < 0)[:, None, None]
        possible = pixels.masked_fill(elsewhere, IMPOSSIBLE)
        instances = binary_cross_entropy_with_logits(suspicion(possible, self.share), label)
        parts = entropy, 1 - overlap, instances, binary_cross_entropy_with_logits(score, label)
        loss = torch.stack([weight * part for weight, part in zip(self.weights, parts, strict=True)]).sum()
        if self.subtypes and "subtypes" in target:
            found, wanted = logits[:, 3:, 0, 0].float(), target["subtypes"].float()
            told = wanted >= 0
            each = binary_cross_entropy_with_logits(found, wanted.clamp(min=0), reduction="none")
            loss = loss + self.subtypes * (each * told).sum() / told.sum().clamp(min=1)
        if (teacher := target.get("teacher")) is not None:
            soft = (teacher[:, 1] - teacher[:, 0]).float().sigmoid(), teacher[:, 2, 0, 0].float().sigmoid()
            alike = [
                binary_cross_entropy_with_logits(mine, its) for mine, its in zip((pixels, score), soft, strict=True)
            ]
            loss = loss + self.distillation * (self.weights[0] * alike[0] + self.weights[3] * alike[1])
        return loss
