"""Gaussian filters over pixels: spatial, and bilateral in (position, gray level).

A filter maps values (B, C, *S) to ``sum_j k(i, j) v_j`` with the self term kept and without normalization.
Distances are in pixels unless a spacing is given. Everything is a fixed sequence of linear operations, so results
are repeatable and gradients flow to the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GRAY_LEVELS = 256


def gaussian_matrix(positions: Tensor, centers: Tensor, sigma: float) -> Tensor:
    """(n, m): ``exp(-(p_i - c_j)^2 / (2 sigma^2))``."""
    return torch.exp(-0.5 * ((positions[:, None] - centers[None, :]) / sigma) ** 2)


class SpatialFilter:
    """Gaussian of position, exact: one small matrix product per axis, zeros outside the image.

    Args:
        shape: spatial shape, (H, W) or (D, H, W).
        sigmas: standard deviation per axis, in pixels of that axis.
        device, dtype: of the values.
    """

    def __init__(self, shape: Sequence[int], sigmas: Sequence[float], device, dtype) -> None:
        self.matrices = []
        for n, sigma in zip(shape, sigmas, strict=True):
            positions = torch.arange(n, device=device, dtype=dtype)
            self.matrices.append(gaussian_matrix(positions, positions, sigma))

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S) -> same shape."""
        for axis, matrix in enumerate(self.matrices, start=2):
            values = torch.matmul(matrix, values.movedim(axis, -2)).movedim(-2, axis) if axis < values.ndim - 1 else (
                values @ matrix.T
            )  # fmt: skip
        return values


class GridBilateralFilter:
    """Gaussian of position and gray level on a bilateral grid.

    Gray levels are kept one by one (256 bins; other values are rounded to the nearest). Along every spatial axis
    values are spread linearly onto nodes half a sigma apart, blurred there, and read back linearly; the blur
    is narrowed by the variance that spreading and reading add, so that the whole has the wanted sigma. With
    sigmas of some pixels or less the nodes are the pixels themselves and the filter is exact.

    Adams, Baek and Davis 2010 call the sparse cousin of this a permutohedral lattice; gray CT has so few
    feature dimensions that a dense grid is smaller and nearer to the exact sum.

    Args:
        image: (B, 1, *S) gray levels 0 to 255.
        sigmas: spatial standard deviation per axis, in pixels of that axis.
        intensity_sigma: standard deviation in gray levels of the one channel.
    """

    def __init__(self, image: Tensor, sigmas: Sequence[float], intensity_sigma: float) -> None:
        self.shape = tuple(image.shape[2:])
        device, dtype = image.device, image.dtype
        self.spread, self.blur = [], []
        for n, sigma in zip(self.shape, sigmas, strict=True):
            spread, blur = _nodes(n, sigma, device, dtype)
            self.spread.append(spread)
            self.blur.append(blur)
        levels = torch.arange(GRAY_LEVELS, device=device, dtype=dtype)
        self.blur_levels = gaussian_matrix(levels, levels, intensity_sigma)
        # Pixels are scattered along the last axis: two nodes each, beside their own gray level.
        matrix = self.spread[-1]  # (n, nodes), two non-zeros a row at most
        weights, nodes = matrix.topk(min(2, matrix.shape[1]), dim=1)
        gray = image[:, 0].round().clamp(0, GRAY_LEVELS - 1).long()  # (B, *S)
        self.index = nodes * GRAY_LEVELS + gray[..., None]  # (B, *S, 2)
        self.weights = weights
        self.nodes = matrix.shape[1]

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S) -> same shape."""
        batch, channels, *shape = values.shape
        index = self.index[:, None].expand(batch, channels, *self.index.shape[1:]).flatten(-2)
        # Scatter rows: (B, C, ..., nodes * levels)
        spread = (values[..., None] * self.weights).flatten(-2)
        grid = values.new_zeros(batch, channels, *shape[:-1], self.nodes * GRAY_LEVELS)
        grid = grid.scatter_add(-1, index, spread)
        for axis in range(len(shape) - 1):
            grid = _along(self.blur[axis] @ self.spread[axis].T, grid, 2 + axis)
        grid = grid.unflatten(-1, (self.nodes, GRAY_LEVELS)) @ self.blur_levels
        grid = torch.matmul(self.blur[-1], grid).flatten(-2)
        for axis in reversed(range(len(shape) - 1)):
            grid = _along(self.spread[axis], grid, 2 + axis)
        read = grid.gather(-1, index).unflatten(-1, (shape[-1], self.weights.shape[1]))
        return (read * self.weights).sum(-1)


class ExactBilateralFilter:
    """Gaussian of position and gray level as the full sum over all pairs of pixels, a block of rows at a time.

    Args:
        image: (B, 1, *S) gray levels.
        sigmas: spatial standard deviation per axis, in pixels of that axis.
        intensity_sigma: standard deviation in gray levels.
        chunk: pixels handled at once; memory is chunk times the number of pixels.
    """

    def __init__(self, image: Tensor, sigmas: Sequence[float], intensity_sigma: float, chunk: int = 2048) -> None:
        axes = [torch.arange(n, device=image.device, dtype=image.dtype) for n in image.shape[2:]]
        places = [p.flatten() / s for p, s in zip(torch.meshgrid(*axes, indexing="ij"), sigmas, strict=True)]
        gray = image.flatten(1) / intensity_sigma
        self.features = torch.stack([torch.stack([*places, row], dim=1) for row in gray])  # (B, N, axes + 1)
        self.chunk = chunk

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S) -> same shape."""
        flat = values.flatten(2)
        rows = []
        for start in range(0, flat.shape[2], self.chunk):
            block = self.features[:, start : start + self.chunk]
            # Differences rather than cdist's expanded square, which loses digits for distant features.
            distance = torch.cdist(block, self.features, compute_mode="donot_use_mm_for_euclid_dist").square()
            rows.append(flat @ torch.exp(-0.5 * distance).transpose(1, 2))
        return torch.cat(rows, dim=2).reshape(values.shape)


def _nodes(n: int, sigma: float, device, dtype) -> tuple[Tensor, Tensor]:
    """Spreading matrix (n, nodes) and blur matrix (nodes, nodes) of one axis."""
    step = sigma / 2
    positions = torch.arange(n, device=device, dtype=dtype)
    if step <= 1 or n == 1:  # nodes are the pixels: exact
        return torch.eye(n, device=device, dtype=dtype), gaussian_matrix(positions, positions, sigma)
    count = int((n - 1) / step) + 2
    nodes = torch.arange(count, device=device, dtype=dtype) * step - ((count - 1) * step - (n - 1)) / 2
    spread = (1 - (positions[:, None] - nodes[None, :]).abs() / step).clamp_min(0)
    # A linear spread of step h adds, averaged over positions, a variance of h^2 / 6; reading back adds the same.
    narrowed = (sigma**2 - step**2 / 3) ** 0.5
    return spread, gaussian_matrix(nodes, nodes, narrowed) * (sigma / narrowed)


def _along(matrix: Tensor, values: Tensor, axis: int) -> Tensor:
    """Contract one axis, which is not the last, with a matrix (out, in)."""
    return torch.matmul(matrix, values.movedim(axis, -2)).movedim(-2, axis)
