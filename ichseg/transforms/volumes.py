"""Between MONAI volumes and the plain tensors the other rooms work on."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from ichseg.io import slice_axis


def volume_slice_axis(volume: torch.Tensor) -> int:
    """Spatial axis (0, 1, 2) that runs through the slices; the last for a tensor without affine."""
    return slice_axis(np.asarray(volume.affine)) if isinstance(volume, MetaTensor) else 2


def plain(volume: torch.Tensor) -> torch.Tensor:
    """The volume without its meta data."""
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume


def like(values: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Values with the reference's meta data; only its direction is right where sizes differ."""
    if not isinstance(reference, MetaTensor):
        return values
    # Copies: what happens to the result must not change the trace of the volume it came from.
    return MetaTensor(
        values.contiguous(), meta=dict(reference.meta), applied_operations=list(reference.applied_operations)
    )
