"""Slice labels and implanted masks in one loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ichseg.networks.supervision import DeeplySupervised
from ichseg.training.distributed import whole_batch


class ImplantLoss(nn.Module):
    """Cross entropy of the slice label, plus cross entropy of the implanted mask at every supervised stage.

    Slices with real hemorrhage have no mask (-1 somewhere) and count through their label alone.

    Args:
        network: gives ``mask_logits``.
        weight: of the mask part.
        blood_weight: of a pixel of blood against a pixel without.
    """

    def __init__(self, network: DeeplySupervised, weight: float = 1.0, blood_weight: float = 8.0) -> None:
        super().__init__()
        # In a list, so that the network's parameters do not become the loss's.
        self._network = [getattr(network, "module", network)]  # unwrapped where training is distributed
        self.weight = weight
        self.classification = nn.CrossEntropyLoss()
        self.blood_weight = blood_weight

    def forward(self, logits: Tensor, target: dict[str, Tensor]) -> Tensor:
        """(B, 2) logits and ``{"label": (B,), "mask": (B, 1, H, W)}`` -> scalar."""
        loss = self.classification(logits, target["label"])
        mask = target["mask"]
        known = mask.flatten(1).amin(dim=1) >= 0
        # The heads take part in every loss, if only by nothing: distributed training waits for their gradients.
        predictions = self._network[0].mask_logits
        if predictions and len(predictions[0]) < len(logits):  # the logits are those of all processes
            predictions = [whole_batch(predicted) for predicted in predictions]
        loss = loss + sum(0.0 * predicted.sum() for predicted in predictions)
        if self.weight and known.any():
            for predicted in predictions:
                height, width = predicted.shape[-2:]
                share = nn.functional.adaptive_avg_pool2d(mask[known], (height, width))
                loss = loss + self.weight * nn.functional.binary_cross_entropy_with_logits(
                    predicted[known], share, pos_weight=share.new_tensor(self.blood_weight)
                )
        return loss


def batch_with_mask(batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any):
    """``prepare_batch`` of the trainer: images, and their labels and masks as one target."""
    target = {key: batch[key].to(device, non_blocking=non_blocking) for key in ("label", "mask")}
    return batch["image"].to(device, non_blocking=non_blocking), target
