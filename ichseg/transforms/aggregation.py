"""One binary mask from the maps of several layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from ichseg.context import aggregate
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class LayerAggregation(Transform):
    """Binary mask from the maps of several layers, see :func:`ichseg.context.aggregate`."""

    def __init__(self, threshold: float = 0.22, rule: str = "or") -> None:
        self.threshold, self.rule = threshold, rule

    def __call__(self, maps: Sequence[torch.Tensor], reference: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Volumes of maps (1, ...) and the scan (1, X, Y, Z) they belong to -> float mask like the scan."""
        axis = volume_slice_axis(reference)
        target = plain(reference)[0].movedim(axis, 0).shape[1:]
        stacks = [plain(m)[0].movedim(axis, 0) for m in maps]
        mask = aggregate(stacks, self.threshold, target, self.rule).float()
        return like(mask.movedim(0, axis)[None], reference)


class LayerAggregationd(MapTransform):
    """Dictionary version of :class:`LayerAggregation`.

    Args:
        keys: the layers' maps; they are consumed.
        reference_key: the scan whose size and geometry the mask gets.
        output_key: where the mask goes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str,
        output_key: str,
        threshold: float = 0.22,
        rule: str = "or",
    ) -> None:
        super().__init__(keys)
        self.reference_key, self.output_key = reference_key, output_key
        self.aggregation = LayerAggregation(threshold, rule)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        maps = [item.pop(key) for key in self.keys]
        item[self.output_key] = self.aggregation(maps, item[self.reference_key])
        return item
