"""In-plane resizing of volumes, slice by slice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils.enums import TraceKeys

from ichseg.transforms.volumes import like, plain, volume_slice_axis

MODES = ("bilinear", "nearest")
SLICES_AT_ONCE = 4


class SliceResize(InvertibleTransform):
    """Resize every slice of a volume to ``size`` x ``size``; the slice axis is found from the affine.

    Bilinear with antialiasing: when a 650-pixel slice becomes 256 pixels, every source pixel counts, which
    averages CT noise instead of picking from it. The affine follows; the inverse restores shape and affine.

    Args:
        size: pixels per side, or (first, second) in-plane size.
        mode: ``"bilinear"`` for images and probabilities, ``"nearest"`` for label codes.
    """

    def __init__(self, size: int | Sequence[int], mode: str = "bilinear") -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not '{mode}'")
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.mode = mode

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """(C, X, Y, Z) -> the same with resized slices; a plain tensor has its slices along the last axis."""
        axis = volume_slice_axis(volume)
        before = tuple(volume.shape[1:])
        resized = resize_slices(volume, axis, self.size, self.mode)
        if not isinstance(volume, MetaTensor):
            return resized
        affine = np.asarray(volume.affine)
        resized = cast(MetaTensor, resized)
        resized.affine = torch.as_tensor(moved_and_scaled(affine, (0, 0, 0), before, tuple(resized.shape[1:])))
        self.push_transform(resized, orig_size=before, extra_info={"mode": self.mode, "axis": axis, "affine": affine})
        return resized

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Undo the resize of (C, X, Y, Z)."""
        record = self.pop_transform(data)
        info = record[TraceKeys.EXTRA_INFO]
        shape, axis = list(record[TraceKeys.ORIG_SIZE]), int(info["axis"])
        mode = "nearest" if "nearest" in str(info["mode"]) else "bilinear"
        restored = cast(MetaTensor, resize_slices(data, axis, shape[:axis] + shape[axis + 1 :], mode))
        restored.affine = torch.as_tensor(np.asarray(info["affine"]))
        return restored


class SliceResized(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`SliceResize`; ``mode`` may differ per key."""

    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int],
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        modes = [mode] * len(self.keys) if isinstance(mode, str) else list(mode)
        if len(modes) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys but {len(modes)} modes")
        self.resizers = {key: SliceResize(size, m) for key, m in zip(self.keys, modes, strict=True)}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.resizers[key](item[key])
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.resizers[key].inverse(item[key])
        return item


def resize_slices(volume: torch.Tensor, axis: int, size: Sequence[int], mode: str) -> torch.Tensor:
    """(C, X, Y, Z) with slices along spatial ``axis`` -> the same with slices of ``size``."""
    slices = plain(volume).movedim(1 + axis, 0)  # (slices, C, H, W)
    if tuple(slices.shape[2:]) == tuple(size):
        return like(slices.float().movedim(0, 1 + axis), volume)
    resized = torch.empty([slices.shape[1], *size[:axis], len(slices), *size[axis:]])
    # A few slices at a time: a whole scan needs no second copy in memory.
    for few, place in zip(
        slices.split(SLICES_AT_ONCE), resized.movedim(1 + axis, 0).split(SLICES_AT_ONCE), strict=True
    ):
        if mode == "nearest":
            place.copy_(torch.nn.functional.interpolate(few.float(), size=tuple(size), mode="nearest-exact"))
        else:
            smooth = torch.nn.functional.interpolate(few.float(), size=tuple(size), mode="bilinear", antialias=True)
            place.copy_(smooth)
    return like(resized, volume)


def moved_and_scaled(
    affine: np.ndarray, starts: Sequence[float], before: Sequence[int], after: Sequence[int]
) -> np.ndarray:
    """Affine after cutting a window and resizing it: voxel edges, not centers, of the two grids coincide.

    Args:
        affine: (4, 4) before.
        starts: first voxel of the window along each axis.
        before, after: shape of the window before and after resizing.
    """
    factors = np.asarray(before, dtype=float) / np.asarray(after, dtype=float)
    change = np.diag([*factors, 1.0])
    change[:3, 3] = np.asarray(starts, dtype=float) + (factors - 1) / 2
    return affine @ change
