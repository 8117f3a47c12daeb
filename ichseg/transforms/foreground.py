"""From class probabilities to a binary mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform


class HemorrhageMask(Transform):
    """(C, ...) probabilities with background first -> (1, ...) float mask where hemorrhage exceeds the threshold.

    Args:
        threshold: strict, on the summed probability of all classes but background.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold is a probability between 0 and 1, not {threshold}")
        self.threshold = threshold

    def __call__(self, probabilities: torch.Tensor) -> torch.Tensor:
        return (probabilities[1:].sum(dim=0, keepdim=True) > self.threshold).float()


class HemorrhageMaskd(MapTransform):
    """Dictionary version of :class:`HemorrhageMask`."""

    def __init__(self, keys: KeysCollection, threshold: float = 0.5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask = HemorrhageMask(threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.mask(item[key])
        return item
