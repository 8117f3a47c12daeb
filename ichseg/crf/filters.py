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
        for axis, matrix in enumerate(self.matrices[:-1], start=2):
            values = _along(matrix, values, axis)
        return values @ self.matrices[-1].T


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
        shape, device, dtype = image.shape[2:], image.device, image.dtype
        axes = [_nodes(n, sigma, device, dtype) for n, sigma in zip(shape, sigmas, strict=True)]
        # All axes but the last are spread and blurred by one matrix, and read back by another.
        self.inward = [blur @ spread.T for spread, blur in axes[:-1]]
        self.outward = [spread for spread, _ in axes[:-1]]
        # Along the last axis pixels are scattered: two nodes each, beside their own gray level.
        spread, self.blur_last = axes[-1]
        self.weights, nodes = spread.topk(min(2, spread.shape[1]), dim=1)
        gray = image[:, 0].round().clamp(0, GRAY_LEVELS - 1).long()  # (B, *S)
        gray = gray - gray.min()
        self.levels = int(gray.max()) + 1
        levels = torch.arange(self.levels, device=device, dtype=dtype)
        self.blur_levels = gaussian_matrix(levels, levels, intensity_sigma)
        self.nodes = spread.shape[1]
        self.index = (nodes * self.levels + gray[..., None])[:, None].flatten(-2)  # (B, 1, ..., 2 n)

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S) -> same shape."""
        index = self.index.expand(*values.shape[:2], *self.index.shape[2:])
        entries = (values[..., None] * self.weights).flatten(-2)
        grid = values.new_zeros(*values.shape[:-1], self.nodes * self.levels).scatter_add_(-1, index, entries)
        for axis, matrix in enumerate(self.inward, start=2):
            grid = _along(matrix, grid, axis)
        grid = grid.unflatten(-1, (self.nodes, self.levels)) @ self.blur_levels
        grid = torch.matmul(self.blur_last, grid).flatten(-2)
        for axis, matrix in reversed(list(enumerate(self.outward, start=2))):
            grid = _along(matrix, grid, axis)
        read = grid.gather(-1, index).unflatten(-1, self.weights.shape)
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
