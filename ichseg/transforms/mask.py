"""From class probabilities to a binary mask."""

from __future__ import annotations

import torch
from monai.transforms import Transform

from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import checked_classes, like, plain


class HemorrhageProbability(Transform):
    """(C, ...) logits with background first -> (1, ...) probability of hemorrhage: the softmax of all other classes.

    One channel instead of C is what has to be interpolated back to the scan's own grid, and the mask is the same.
    """

    backend = BACKENDS

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return like(checked_classes(plain(logits)).softmax(dim=0)[1:].sum(dim=0, keepdim=True), logits)


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
        found = values[1:].sum(dim=0, keepdim=True) if len(values) > 1 else values
        return like((found > self.threshold).to(torch.uint8), probabilities)


class HemorrhageMaskd(DictionaryTransform, array=HemorrhageMask):
    """Dictionary version of :class:`HemorrhageMask`."""

    @property
    def mask(self) -> HemorrhageMask:
        """The array transform."""
        return self.transform
