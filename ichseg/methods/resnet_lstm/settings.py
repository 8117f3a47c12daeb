"""What must be known of a slice sequence classifier to use its weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from ichseg.methods.resnet_lstm.network import SliceSequenceClassifier
from ichseg.networks import load_weights
from ichseg.networks.weights import check_settings, read_settings


@dataclass(frozen=True)
class SequenceSettings:
    """It travels in the weight file.

    Attributes:
        encoder: ``"resnet18"`` or ``"resnet34"``.
        hidden: units of the LSTM in each direction; 0: none.
        length: slices of a window.
        size: pixels per side.
        window_level, window_width: HU.
    """

    encoder: str
    hidden: int
    length: int
    size: int
    window_level: float
    window_width: float

    def __post_init__(self) -> None:
        check_settings(self, size=(1, inf), length=(1, inf), hidden=(0, inf), window_width=(1, inf))

    def network(self, dropout: float = 0.2) -> SliceSequenceClassifier:
        """The classifier with random weights."""
        return SliceSequenceClassifier(self.encoder, self.hidden, dropout)


def load_sequence_classifier(weights: str | Path) -> tuple[SliceSequenceClassifier, SequenceSettings]:
    """The classifier of a weight file and its settings.

    Raises:
        IchsegError: the file cannot be read, has no settings, or holds another network.
    """
    made = read_settings(weights, SequenceSettings)
    return load_weights(made.network(), weights).eval(), made
