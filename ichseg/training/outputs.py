"""What metrics take from the engines' outputs."""

from __future__ import annotations

from typing import Any

import torch

from ichseg.networks import slice_scores


def logits_and_labels(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, ...) logits and their labels, for a loss averaged over the validation set."""
    return output["pred"], output["label"]


def score_and_label(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) probability of hemorrhage and (B, 1) label, for the area under the ROC curve."""
    return output["pred"].softmax(dim=1)[:, 1:2], output["label"].reshape(-1, 1)


def slice_score_and_label(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) score and (B, 1) label of slices, from the logits of :class:`ichseg.networks.ContextUNet`."""
    return slice_scores(output["pred"])[:, None], output["label"].reshape(-1, 1)
