"""What metrics take from the engines' outputs."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine

from ichseg.networks import slice_scores


def logits_and_labels(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, ...) logits and their labels, for a loss averaged over the validation set."""
    return output["pred"], output["label"]


def score_and_label(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) probability of hemorrhage and (B, 1) label, for the area under the ROC curve."""
    return output["pred"].softmax(dim=1)[:, 1:2], output["label"].reshape(-1, 1)


def slice_score_and_label(output: dict[str, Any], share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) score and (B, 1) label of slices, from the logits of :class:`ichseg.networks.ContextUNet`.

    Args:
        output: of the engine.
        share: of a slice's pixels that count as its most suspicious.
    """
    return slice_scores(output["pred"], share)[:, None], output["label"].reshape(-1, 1)


def lower_is_better(current: float, best: float) -> bool:
    """``metric_cmp_fn`` of an evaluator whose key metric is a loss."""
    return current < best


class MetricOf:
    """``step_transform`` of a scheduler that goes by a validation metric: called with any engine, gives its last value.

    Args:
        evaluator: the validation engine.
        name: of the metric.
    """

    def __init__(self, evaluator: Engine, name: str) -> None:
        self.evaluator, self.name = evaluator, name

    def __call__(self, engine: Engine) -> float:
        return self.evaluator.state.metrics[self.name]
