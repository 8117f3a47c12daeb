"""From class probabilities to a binary mask."""

from __future__ import annotations

import torch
from monai.transforms import Transform

from ichseg.defaults import ROUNDING
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import checked_classes, like, plain


class HemorrhageProbability(Transform):
    """Logits (C, ...), background first -> (1, ...) probability of hemorrhage: the softmax summed over other classes.

    Only one channel instead of C then has to be interpolated back to the grid of the scan.
    """

    backend = BACKENDS

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return like(_checked_logits(plain(logits)).softmax(dim=0)[1:].sum(dim=0, keepdim=True), logits)


def _checked_logits(logits: torch.Tensor) -> torch.Tensor:
    """Two or more classes of logits: of one class the softmax is 1, and of probabilities it is none."""
    checked_classes(logits)
    if len(logits) < 2:
        raise ValueError(f"expected logits (C, ...) with background first, C >= 2, not shape {tuple(logits.shape)}")
    total = logits.sum(dim=0)
    if logits.numel() and bool((logits >= 0).all()) and bool(((total - 1).abs() < ROUNDING).all()):
        raise ValueError("expected logits, but these are probabilities already: they sum to 1 over the classes")
    return logits


class HemorrhageProbabilityd(DictionaryTransform, array=HemorrhageProbability):
    """Dictionary version of :class:`HemorrhageProbability`."""


class HemorrhageMask(Transform):
    """Probabilities -> (1, ...) uint8 mask where hemorrhage exceeds the threshold.

    Args:
        threshold: strict, on the probability of hemorrhage: the one channel there is, or all channels but the first,
            which is background.
    """

    backend = BACKENDS

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold must be between 0 and 1, not {threshold}")
        self.threshold = threshold

    def __call__(self, probabilities: torch.Tensor) -> torch.Tensor:
        values = checked_classes(plain(probabilities))
        low, high = (float(values.amin()), float(values.amax())) if values.numel() else (0.0, 0.0)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN too
            raise ValueError(f"expected probabilities in [0, 1], not values from {low:g} to {high:g}")
        found = values[1:].sum(dim=0, keepdim=True) if len(values) > 1 else values
        return like((found > self.threshold).view(torch.uint8), probabilities)


class HemorrhageMaskd(DictionaryTransform, array=HemorrhageMask):
    """Dictionary version of :class:`HemorrhageMask`."""
