"""Thin slices averaged to the thickness a network was trained on."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ichseg.data.slices import slab_means
from ichseg.io import spacing_mm
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, tensor_of, volume_slice_axis

# Slices that are thicker than this share of the slab stay as they are.
THICK_ENOUGH = 0.7


class AverageSlabs(Transform):
    """(1, X, Y, Z) -> the same shape: every slice becomes the mean of the slab around it.

    Thin slices have more noise than thick ones, which a network trained on thick ones may take for something else. A
    slice is weighted by how much of it lies in the slab; at the ends of a scan the slab is cut short. Without an affine
    nothing is done.

    Args:
        slab_mm: thickness of the slab; 0: none.

    Raises:
        ValueError: a negative thickness.
    """

    backend = BACKENDS

    def __init__(self, slab_mm: float = 5.0) -> None:
        if not 0 <= slab_mm < float("inf"):
            raise ValueError(f"slab_mm must be a non-negative number of mm, not {slab_mm}")
        self.slab_mm = slab_mm

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        if not self.slab_mm or not isinstance(volume, MetaTensor):
            return tensor_of(volume)
        axis = 1 + volume_slice_axis(volume)
        step = float(spacing_mm(np.asarray(volume.affine))[axis - 1])
        count = volume.shape[axis]
        if not 0 < step <= THICK_ENOUGH * self.slab_mm or count < 2:
            return volume
        return like(slab_means(plain(volume).float(), step, self.slab_mm, axis), volume)


class AverageSlabsd(DictionaryTransform, array=AverageSlabs):
    """Dictionary version of :class:`AverageSlabs`."""
