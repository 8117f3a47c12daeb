"""What must be known of a Swin classifier to use its weights, and the network they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from ichseg.methods.hgi_sam.network import SwinSliceClassifier
from ichseg.networks import ClassifierEnsemble, load_weights
from ichseg.networks.weights import check_settings, read_settings


@dataclass(frozen=True)
class SwinSettings:
    """It travels in the weight file.

    Attributes:
        variant: a name of :data:`ichseg.methods.hgi_sam.network.SIZES`.
        size: pixels per side of the network's slices.
        windows: level and width in HU of each channel.
        tokens: per side of an attention window.
    """

    variant: str
    size: int
    windows: Sequence[Sequence[float]]
    tokens: int = 12

    def __post_init__(self) -> None:
        check_settings(self, size=(1, inf), tokens=(1, inf))
        object.__setattr__(self, "windows", [[float(value) for value in window] for window in self.windows])

    def network(self) -> SwinSliceClassifier:
        """The classifier with random weights."""
        return SwinSliceClassifier(self.variant, len(self.windows), window=self.tokens)


def load_swin(weights: str | Path) -> tuple[ClassifierEnsemble, SwinSettings]:
    """The classifier of a weight file, as an ensemble of one that gives probabilities, and its settings.

    Raises:
        IchsegError: the file cannot be read, has no settings, or holds another network.
    """
    made = read_settings(weights, SwinSettings)
    return ClassifierEnsemble([load_weights(made.network(), weights)]).eval(), made
