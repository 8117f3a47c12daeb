"""In-plane resizing and cropping of volumes, slice by slice, and the affine that follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

MODES = ("bilinear", "nearest")
SLICES_AT_ONCE = 4


def resize_slices(volume: Tensor, axis: int, size: Sequence[int], mode: str) -> Tensor:
    """(C, X, Y, Z) with slices along spatial ``axis`` -> float32 with slices of ``size``.

    ``"bilinear"`` is antialiased: when a 650-pixel slice becomes 256 pixels, every source pixel counts, which averages
    CT noise instead of picking from it. ``"nearest"`` is for label codes.
    """
    return place_slices(volume, axis, (0, 0), size, size, mode)


def place_slices(
    volume: Tensor, axis: int, starts: Sequence[int], spans: Sequence[int], plane: Sequence[int], mode: str
) -> Tensor:
    """:func:`resize_slices` to ``spans``, and each slice at ``starts`` of a ``plane`` of zeros; what is outside is cut.

    In memory, slices lie one after another, whatever their axis.
    """
    slices = volume.movedim(1 + axis, 0)  # (slices, C, H, W)
    if tuple(slices.shape[2:]) == tuple(spans) == tuple(plane) and not any(starts):
        return volume.float()
    placed = torch.zeros([*slices.shape[:2], *plane], device=volume.device)
    here, there = [], []  # which pixels go where
    for start, span, length in zip(starts, spans, plane, strict=True):
        low, high = max(start, 0), max(min(start + span, length), max(start, 0))
        here.append(slice(low - start, high - start))
        there.append(slice(low, high))
    # A few slices at a time: a whole scan needs no second copy in memory.
    for few, place in zip(slices.split(SLICES_AT_ONCE), placed.split(SLICES_AT_ONCE), strict=True):
        place[:, :, there[0], there[1]] = _resized(few, spans, mode)[:, :, here[0], here[1]]
    return placed.movedim(0, 1 + axis)


def resize_crops(
    volume: Tensor,
    axis: int,
    starts: Sequence[int],
    spans: Sequence[int],
    size: Sequence[int],
    mode: str,
    clip: Sequence[float] | None = None,
) -> Tensor:
    """The in-plane window of ``spans`` pixels from ``starts`` of each slice, resized to ``size`` as float32.

    Args:
        volume: (C, X, Y, Z).
        axis: spatial axis of the slices.
        starts, spans: of the window; where it reaches beyond the slice, it holds the lowest value of the volume with
            ``"bilinear"``, and 0 with ``"nearest"``.
        size: of the slices returned.
        mode: as in :func:`resize_slices`.
        clip: values outside of this are brought to its ends before they are averaged; None leaves them.
    """
    slices = volume.movedim(1 + axis, 0)
    fill = min(float(few.float().amin()) for few in slices.split(SLICES_AT_ONCE)) if mode == "bilinear" else 0.0
    found = torch.empty([*slices.shape[:2], *size], device=volume.device)
    for few, place in zip(slices.split(SLICES_AT_ONCE), found.split(SLICES_AT_ONCE), strict=True):
        window = _cropped(few.float(), starts, spans, fill)
        place[...] = _resized(window if clip is None else window.clamp(*clip), size, mode)
    return found.movedim(0, 1 + axis)


def _resized(slices: Tensor, size: Sequence[int], mode: str) -> Tensor:
    if tuple(slices.shape[2:]) == tuple(size):
        return slices.float()
    if mode == "nearest":
        return interpolate(slices.float(), size=tuple(size), mode="nearest-exact")
    return interpolate(slices.float(), size=tuple(size), mode="bilinear", antialias=True)


def _cropped(slices: Tensor, starts: Sequence[int], spans: Sequence[int], fill: float) -> Tensor:
    """Window of (slices, C, H, W); ``fill`` where it reaches beyond the slice."""
    pads: list[int] = []
    ranges = []
    for start, span, n in zip(starts, spans, slices.shape[2:], strict=True):
        low, high = max(start, 0), min(start + span, n)
        ranges.append(slice(low, max(low, high)))
        before = min(max(-start, 0), span)
        pads = [before, span - max(0, high - low) - before, *pads]
    return pad(slices[:, :, ranges[0], ranges[1]], pads, value=fill)


def moved_and_scaled(
    affine: np.ndarray, starts: Sequence[float], before: Sequence[int], after: Sequence[int]
) -> np.ndarray:
    """Affine after cropping and resizing: voxel edges, not centers, of the two grids coincide.

    Args:
        affine: (4, 4) before.
        starts: first voxel of the crop along each axis.
        before, after: shape of the crop before and after resizing.
    """
    factors = np.asarray(before, dtype=float) / np.asarray(after, dtype=float)
    change = np.diag([*factors, 1.0])
    change[:3, 3] = np.asarray(starts, dtype=float) + (factors - 1) / 2
    return affine @ change
