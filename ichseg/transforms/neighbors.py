"""A slice and the slices beside it, as channels."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ichseg.data.slices import NEIGHBOR_MM, neighbors
from ichseg.io import spacing_mm
from ichseg.io.geometry import runs_up
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class NeighborSlices(Transform):
    """(1, X, Y, Z) -> (3, X, Y, Z): the slice itself, the slice below, the slice above, for a 2-D network.

    At the ends of a scan, and in a scan of one slice, the slice itself stands for the neighbor that is not there.

    Args:
        distance_mm: how far away a neighbor is; in a scan of thinner slices it is some slices away.
    """

    backend = BACKENDS

    def __init__(self, distance_mm: float = NEIGHBOR_MM) -> None:
        if distance_mm <= 0:
            raise ValueError(f"distance_mm must be above 0, not {distance_mm}")
        self.distance_mm = distance_mm

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        axis = 1 + volume_slice_axis(volume)
        step, upward = self.distance_mm, True  # without an affine, the next slice
        if isinstance(volume, MetaTensor):
            affine = np.asarray(volume.affine)
            step, upward = spacing_mm(affine)[axis - 1], runs_up(affine[:3, axis - 1])
        values = plain(volume)
        places = np.arange(values.shape[axis])
        before, after = neighbors(len(places), step, self.distance_mm)
        order = (places, before, after) if upward else (places, after, before)
        shown = [values.index_select(axis, torch.from_numpy(index).to(values.device)) for index in order]
        return like(torch.cat(shown), volume)


class NeighborSlicesd(DictionaryTransform, array=NeighborSlices):
    """Dictionary version of :class:`NeighborSlices`."""
