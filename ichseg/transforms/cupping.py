"""Correct cupping: the scanner makes brain near bone too bright."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ichseg.anatomy.cupping import cupping
from ichseg.io import USUAL_STEP_MM, spacing_mm
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, tensor_of, volume_slice_axis


class RemoveCupping(Transform):
    """(1, X, Y, Z) HU -> the same without cupping: brain near bone is as bright as in the center.

    Estimated from the volume itself, see :func:`ichseg.anatomy.cupping`. Bone and everything outside the skull stay.

    Args:
        pixel_mm: mm per pixel in plane, for a tensor without an affine.
        enabled: False leaves the volume as it is.

    Raises:
        ValueError: several channels.
    """

    backend = BACKENDS

    def __init__(self, pixel_mm: float = 1.0, enabled: bool = True) -> None:
        self.pixel_mm, self.enabled = pixel_mm, enabled

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return tensor_of(volume)
        axis, values = volume_slice_axis(volume), plain(volume)
        if len(values) != 1:
            raise ValueError(f"expected a volume (1, X, Y, Z) in HU, not shape {tuple(values.shape)}")
        pixel, step = self.pixel_mm, USUAL_STEP_MM
        if isinstance(volume, MetaTensor):
            spacing = spacing_mm(np.asarray(volume.affine))
            pixel, step = float(np.delete(spacing, axis).mean()), spacing[axis]
        slices = values[0].movedim(axis, 0).float().cpu().numpy()
        excess = torch.from_numpy(cupping(slices, pixel, step)).movedim(0, axis)[None]
        return like(values - excess.to(values), volume)


class RemoveCuppingd(DictionaryTransform, array=RemoveCupping):
    """Dictionary version of :class:`RemoveCupping`."""
