"""A slice and the slices beside it, as channels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ichseg.io import spacing_mm
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class NeighborSlices(Transform):
    """(1, X, Y, Z) -> (3, X, Y, Z): the slice itself, the slice below, the slice above, for a 2-D network.

    At the ends of a scan, and in a scan of one slice, the slice itself stands for the neighbor that is not there.

    Args:
        distance_mm: how far away a neighbor is; in a scan of thinner slices it is some slices away. 0: always the next.
    """

    def __init__(self, distance_mm: float = 5.0) -> None:
        if distance_mm < 0:
            raise ValueError(f"distance_mm must be at least 0, not {distance_mm}")
        self.distance_mm = distance_mm

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        axis = 1 + volume_slice_axis(volume)
        reach, upward = 1, True
        if isinstance(volume, MetaTensor):
            affine = np.asarray(volume.affine)
            reach = max(1, round(self.distance_mm / spacing_mm(affine)[axis - 1]))
            upward = bool(affine[2, axis - 1] >= 0)
        values = plain(volume)
        n = values.shape[axis]
        places = torch.arange(n)
        below, above = places - reach, places + reach
        below = torch.where(below < 0, places, below)
        above = torch.where(above >= n, places, above)
        order = [places, below, above] if upward else [places, above, below]
        return like(torch.cat([values.index_select(axis, index) for index in order]), volume)


class NeighborSlicesd(MapTransform):
    """Dictionary version of :class:`NeighborSlices`; ``enabled=False`` leaves everything as it is."""

    def __init__(
        self,
        keys: KeysCollection,
        distance_mm: float = 5.0,
        enabled: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.neighbors, self.enabled = NeighborSlices(distance_mm), enabled

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item) if self.enabled else ():
            item[key] = self.neighbors(item[key])
        return item
