"""In-plane resizing of volumes, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils.enums import TraceKeys

from ichseg.data.resampling import MODES, moved_and_scaled, resize_slices
from ichseg.transforms.base import BACKENDS, InvertibleDictionaryTransform
from ichseg.transforms.volumes import is_label, like, plain, remember_slices, volume_slice_axis


class SliceResize(InvertibleTransform):
    """Resize every slice of a volume to ``size`` x ``size``; the slice axis is found from the affine.

    See :func:`ichseg.data.resampling.resize_slices`. The affine follows; the inverse restores shape and affine.

    Args:
        size: pixels per side, or (first, second) in-plane size.
        mode: ``"bilinear"`` (antialiased) for images and probabilities, ``"nearest"`` for label codes. None: nearest
            for label codes (few different integers from -1 up), bilinear for the rest.
    """

    backend = BACKENDS

    def __init__(self, size: int | Sequence[int], mode: str | None = None) -> None:
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not '{mode}'")
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.mode = mode

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, X, Y, Z) -> the same with resized slices; a plain tensor has its slices along the last axis."""
        axis = volume_slice_axis(volume)
        before = tuple(volume.shape[1:])
        mode = self.mode or ("nearest" if is_label(volume) else "bilinear")
        resized = like(resize_slices(plain(volume), axis, self.size, mode), volume)
        if not isinstance(volume, MetaTensor):
            return resized
        affine = np.asarray(volume.affine)
        resized = cast(MetaTensor, resized)
        resized.affine = torch.as_tensor(moved_and_scaled(affine, (0, 0, 0), before, tuple(resized.shape[1:])))
        remember_slices(resized, axis, affine)
        self.push_transform(resized, orig_size=before, extra_info={"mode": mode, "axis": axis, "affine": affine})
        return resized

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Undo the resize of (C, X, Y, Z)."""
        record = self.pop_transform(data)
        info = record[TraceKeys.EXTRA_INFO]
        shape, axis = list(record[TraceKeys.ORIG_SIZE]), int(info["axis"])
        plane = shape[:axis] + shape[axis + 1 :]
        restored = cast(MetaTensor, like(resize_slices(plain(data), axis, plane, inverse_mode(info["mode"])), data))
        restored.affine = torch.as_tensor(np.asarray(info["affine"]))
        return restored


class SliceResized(InvertibleDictionaryTransform, array=SliceResize, per_key=("mode",)):
    """Dictionary version of :class:`SliceResize`; ``mode`` may differ per key."""


def inverse_mode(mode: object) -> str:
    """The mode of an inverse: ``Invertd`` writes its own name for nearest interpolation into the trace."""
    return "nearest" if "nearest" in str(mode) else "bilinear"
