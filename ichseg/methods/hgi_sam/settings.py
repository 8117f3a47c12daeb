"""What must be known of a Swin classifier to use its weights, and the network they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ichseg.data.slice_subtypes import known_cross_entropy
from ichseg.data.subtypes import SUBTYPE_ORDER
from ichseg.errors import IchsegError
from ichseg.methods.hgi_sam.network import SwinSliceClassifier
from ichseg.networks import ClassifierEnsemble, load_weights
from ichseg.networks.weights import check_settings, read_settings

HEADS = ("binary", "subtypes")


@dataclass(frozen=True)
class SwinSettings:
    """It travels in the weight file.

    Attributes:
        variant: a name of :data:`ichseg.methods.hgi_sam.network.SIZES`.
        size: pixels per side of the network's slices.
        windows: level and width in HU of each channel.
        tokens: per side of an attention window.
        head: ``"binary"``, or ``"subtypes"``: any hemorrhage and each of the five.
    """

    variant: str
    size: int
    windows: Sequence[Sequence[float]]
    tokens: int = 12
    head: str = HEADS[0]

    def __post_init__(self) -> None:
        check_settings(self, size=(1, inf), tokens=(1, inf))
        if self.head not in HEADS:
            raise IchsegError(f"head must be {' or '.join(HEADS)}, not '{self.head}'")
        object.__setattr__(self, "windows", [[float(value) for value in window] for window in self.windows])

    def network(self) -> SwinSliceClassifier:
        """The classifier with random weights."""
        classes = 2 if self.head == "binary" else 1 + len(SUBTYPE_ORDER)
        return SwinSliceClassifier(self.variant, len(self.windows), classes, self.tokens)


def load_swin(weights: str | Path) -> tuple[ClassifierEnsemble, SwinSettings]:
    """The classifier of a weight file, as an ensemble of one that gives probabilities, and its settings.

    Raises:
        IchsegError: the file cannot be read, has no settings, or holds another network.
    """
    made = read_settings(weights, SwinSettings)
    network = load_weights(made.network(), weights)
    network.explains_any = made.head == "subtypes"
    return ClassifierEnsemble([network]).eval(), made


def swin_loss(head: str) -> nn.Module:
    """Cross entropy of the two classes, or of each class on its own where subtypes are told apart."""
    return nn.CrossEntropyLoss() if head == "binary" else _Known()


class _Known(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return known_cross_entropy(logits, targets)


def any_score_and_label(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(B, 1) score of hemorrhage of any kind and (B, 1) label, for the area under the ROC curve."""
    logits, label = output["pred"], output["label"]
    if label.ndim < 2:
        return logits.softmax(dim=1)[:, 1:2], label.reshape(-1, 1)
    return logits[:, :1].sigmoid(), label[:, :1]
