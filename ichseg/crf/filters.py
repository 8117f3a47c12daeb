"""Gaussian filters over pixels, exact: spatial, and bilateral in (position, gray level).

A filter maps values (B, C, *S) to ``sum_j k(i, j) v_j`` with the self term kept and without normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ichseg.crf.axis import AxisProduct, gaussian, gaussian_matrix

# The exact bilateral kernel is kept between calls if it has no more entries than this (256 MB in float32).
KEPT_ENTRIES = 2**26


class SpatialFilter:
    """Gaussian of position: one axis after the other, zeros outside the image.

    Args:
        shape: spatial shape, (H, W) or (D, H, W).
        sigmas: standard deviation per axis, in pixels of that axis.
        device, dtype: of the values.
    """

    def __init__(self, shape: Sequence[int], sigmas: Sequence[float], device: torch.device, dtype: torch.dtype) -> None:
        self.axes = []
        for n, sigma in zip(shape, sigmas, strict=True):
            positions = torch.arange(n, dtype=torch.float64)
            self.axes.append(AxisProduct(gaussian_matrix(positions, positions, sigma), device, dtype))

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S) -> same shape."""
        for axis, product in enumerate(self.axes, start=2):
            values = product(values, axis)
        return values


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
        gray = (image - image.min()).flatten(1) / intensity_sigma
        self.features = torch.stack([torch.stack([*places, row], dim=1) for row in gray])  # (B, N, axes + 1)
        self.chunk = chunk
        batch, pixels = self.features.shape[:2]
        small = batch * pixels**2 <= KEPT_ENTRIES
        self.kept = [self._rows(start) for start in range(0, pixels, chunk)] if small else None

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S) -> same shape."""
        flat = values.flatten(2)
        starts = range(0, flat.shape[2], self.chunk)
        blocks = self.kept if self.kept is not None else map(self._rows, starts)
        return torch.cat([flat @ rows.transpose(1, 2) for rows in blocks], dim=2).reshape(values.shape)

    def _rows(self, start: int) -> Tensor:
        """(B, chunk, N) of the kernel."""
        block = self.features[:, start : start + self.chunk]
        # Differences rather than cdist's expanded square, which loses digits for distant features.
        if block.is_cuda:  # cdist gives every entry a block of threads of its own
            return gaussian(squared_distances(block, self.features))
        distance = torch.cdist(block, self.features, compute_mode="donot_use_mm_for_euclid_dist")
        return gaussian(distance.square_())


def squared_distances(some: Tensor, all_of_them: Tensor) -> Tensor:
    """(B, M, F) and (B, N, F) features -> (B, M, N)."""
    pairs = zip(some.unbind(2), all_of_them.unbind(2), strict=True)
    return reduce(Tensor.add_, ((one[:, :, None] - other[:, None, :]).square_() for one, other in pairs))
