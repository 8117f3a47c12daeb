"""What metrics take from the engines' outputs."""

from __future__ import annotations

from typing import Any

import torch


def logits_and_labels(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, ...) logits and their labels, for a loss averaged over the validation set."""
    return output["pred"], output["label"]


def score_and_label(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) probability of hemorrhage and (B, 1) label, for the area under the ROC curve."""
    return output["pred"].softmax(dim=1)[:, 1:2], output["label"].reshape(-1, 1)


def slice_score_and_label(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A segmenter as a slice classifier: highest pixel probability (B, 1), and whether the mask is empty (B, 1)."""
    score = output["pred"].softmax(dim=1)[:, 1].flatten(1).amax(dim=1, keepdim=True)
    return score, output["label"].flatten(1).amax(dim=1, keepdim=True)


def mask_and_truth(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, H, W) predicted and true class numbers."""
    return output["pred"].argmax(dim=1), output["label"][:, 0]
