"""Two views of the same slices, for contrastive learning: other places and other gray values, or gray values alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TURN, SHIFT, SCALE, SMALLEST_CROP = 45.0, 0.1, 0.1, 0.5  # degrees, shares
ASPECT = 0.8, 1.25  # of a crop
BLUR = 0.1, 1.5  # pixels
STRONG, MILD = (0.5, 1.4, 0.25), (0.7, 1.3, 0.0)  # contrast from, to; brightness up to
CHANCE = 0.5


def two_views(images: Tensor, moved: bool) -> tuple[Tensor, Tensor]:
    """(B, 1, H, W) in [0, 1] -> two of the same shape, differently changed.

    Args:
        images: slices.
        moved: each view is turned, shifted, scaled, cropped and flipped on its own, with strong changes of gray values
            (the global task); False: both are moved alike and differ in gray values (the local task).
    """
    if moved:
        first, second = (_gray(_placed(images), STRONG) for _ in range(2))
        return first, second
    placed = _placed(images)
    return _gray(placed, MILD), _gray(placed, MILD)


def _between(images: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(images), device=images.device).uniform_(low, high)


def _sometimes(images: Tensor, values: Tensor, otherwise: float) -> Tensor:
    return torch.where(_between(images, 0, 1) < CHANCE, values, otherwise)


def _placed(images: Tensor) -> Tensor:
    angle = _between(images, -TURN, TURN).deg2rad()
    # A crop, always: of half to all of the area, a little wider or higher, somewhere.
    size = _between(images, SMALLEST_CROP, 1.0).sqrt() * _between(images, 1 - SCALE, 1 + SCALE)
    shape = _between(images, *ASPECT).sqrt()
    wide, high = size * shape, size / shape
    mirror = _sometimes(images, torch.full_like(angle, -1.0), 1.0)
    matrix = torch.zeros(len(images), 2, 3, device=images.device)
    matrix[:, 0, 0], matrix[:, 0, 1] = angle.cos() * wide, -angle.sin() * high * mirror
    matrix[:, 1, 0], matrix[:, 1, 1] = angle.sin() * wide, angle.cos() * high * mirror
    for axis, part in enumerate((wide, high)):
        room = (1 - part).clamp(min=0) + 2 * SHIFT
        matrix[:, axis, 2] = _between(images, -1, 1) * room
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _gray(images: Tensor, amounts: tuple[float, float, float]) -> Tensor:
    low, high, brighter = amounts
    contrast = _sometimes(images, _between(images, low, high), 1.0)[:, None, None, None]
    shift = _sometimes(images, _between(images, -brighter, brighter), 0.0)[:, None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    changed = (images - mean) * contrast + mean + shift
    sigma = _between(images, *BLUR)
    reach = math.ceil(3 * BLUR[1])
    away = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    line = torch.exp(-away.square() / (2 * sigma.square()[:, None]))
    line = (line / line.sum(dim=1, keepdim=True))[:, None]  # one kernel per image: images stand as channels
    blurred = changed.transpose(0, 1)
    for kernel, around in ((line[..., None], (0, 0, reach, reach)), (line[:, :, None], (reach, reach, 0, 0))):
        padded = functional.pad(blurred, around, mode="replicate")
        blurred = functional.conv2d(padded, kernel, groups=len(images))
    blurs = (_between(images, 0, 1) < CHANCE)[:, None, None, None]
    return torch.where(blurs, blurred.transpose(0, 1), changed).clamp(0, 1)
