"""One axis of an image: its Gaussian kernel, and products with a matrix along it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rows that are multiplied at once on a CPU: few enough to leave the zeros out, enough to be fast.
BLOCK = 64
# Entries below this power of the precision, of the largest entry, are 0: 8e-13 in float32. A sum over a million pixels
# does not change; and the product of three of them, of a grid with three axes, is still a normal number.
UNNOTICED = 1.75


def gaussian_matrix(positions: Tensor, centers: Tensor, sigma: float) -> Tensor:
    """(n, m): ``exp(-(p_i - c_j)^2 / (2 sigma^2))``."""
    return gaussian(((positions[:, None] - centers[None, :]) / sigma).square_())


def gaussian(squares: Tensor) -> Tensor:
    """``exp(-d^2 / 2)`` in the place of the squares; 0 where no sum can notice.

    Left as they are, the tails and what they are multiplied with would be subnormal numbers (below 1.2e-38 in float32),
    which Intel processors compute a hundred times more slowly.
    """
    least = torch.finfo(squares.dtype).eps ** UNNOTICED
    return torch.threshold_(squares.mul_(-0.5).clamp_min_(2 * math.log(least)).exp_(), least, 0.0)


class AxisProduct:
    """A matrix times one axis of a tensor.

    Entries that no sum in ``dtype`` can notice are 0, see :func:`gaussian`.
    On a CPU, entries too small to change a sum in ``dtype`` are left out, block of rows by block, so that the cost of a
    short-ranged kernel is linear in n. A GPU multiplies the whole matrix sooner than it starts many small products.

    Args:
        matrix: (n, n) of float64, in the order (out, in).
        device, dtype: of the values.
    """

    def __init__(self, matrix: Tensor, device: torch.device, dtype: torch.dtype) -> None:
        self.n = len(matrix)
        size, peak = matrix.abs(), matrix.abs().max()
        matrix = matrix.where(size > torch.finfo(dtype).eps ** UNNOTICED * peak, 0.0)
        self.matrix = matrix.to(device, dtype)
        self.blocks: list[tuple[slice, slice, Tensor]] = []  # rows out, rows in, matrix between them
        if torch.device(device).type != "cpu":
            return
        matters = (size > torch.finfo(dtype).eps * peak).int()
        for start in range(0, self.n, BLOCK):
            rows = slice(start, min(start + BLOCK, self.n))
            used = matters[rows].amax(dim=0).nonzero()
            reach = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
            self.blocks.append((rows, reach, self.matrix[rows, reach].clone()))
        if sum((r.stop - r.start) * (c.stop - c.start) for r, c, _ in self.blocks) > 0.75 * self.n**2:
            self.blocks = []

    def __call__(self, values: Tensor, axis: int) -> Tensor:
        """Values of any shape, without gradient, with n entries along ``axis`` -> the same shape."""
        before, after = values.shape[:axis].numel(), values.shape[axis + 1 :].numel()
        flat = values.reshape(before, self.n, after)
        if not self.blocks:
            product = flat[..., 0] @ self.matrix.T if after == 1 else torch.matmul(self.matrix, flat)
            return product.reshape(values.shape)
        product = torch.empty_like(flat)
        for rows, reach, matrix in self.blocks:
            if after == 1:
                torch.mm(flat[:, reach, 0], matrix.T, out=product[:, rows, 0])
            else:
                for one, result in zip(flat[:, reach], product[:, rows], strict=True):
                    torch.mm(matrix, one, out=result)
        return product.reshape(values.shape)
