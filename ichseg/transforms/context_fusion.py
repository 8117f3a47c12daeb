"""Spatial context fusion over the runs of positive slices of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.transforms import Transform

from ichseg.context import fuse, normalization, positive_runs
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class SpatialContextFusion(Transform):
    """Fuse every run of positive slices with its neighbors, see :func:`ichseg.context.fuse`.

    Args:
        window: how many slices away a neighbor may be.
        weight: the neighbors' weight; 0 leaves the maps as they are.
        gate: probability that makes a slice positive.
        nf: normalization, see :func:`ichseg.context.normalization` (decision D12).
    """

    backend = BACKENDS

    def __init__(self, window: int = 2, weight: float = 0.5, gate: float = 0.5, nf: str = "weights") -> None:
        self.window, self.weight, self.gate, self.nf = window, weight, gate, nf
        normalization(1, window, weight, nf)  # a wrong name is told now, not at the first scan

    def __call__(self, maps: torch.Tensor, probabilities: torch.Tensor | Sequence[float]) -> torch.Tensor:  # type: ignore[override]
        """(1, ...) volume of maps and (slices,) probabilities -> fused volume; slices outside runs stay as they are."""
        axis = volume_slice_axis(maps)
        slices = plain(maps)[0].movedim(axis, 0).clone()
        if len(probabilities) != len(slices):
            raise ValueError(f"{len(slices)} slices need the same number of probabilities, not {len(probabilities)}")
        for start, stop in positive_runs([float(p) >= self.gate for p in probabilities]):
            slices[start:stop] = fuse(slices[start:stop].clone(), self.window, self.weight, self.nf)
        return like(slices.movedim(0, axis)[None], maps)


class SpatialContextFusiond(DictionaryTransform, array=SpatialContextFusion, companions={"probability_key": ...}):
    """Dictionary version of :class:`SpatialContextFusion`; ``probability_key`` holds the slices' probabilities."""
