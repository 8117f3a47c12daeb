"""One axis of an image: its Gaussian kernel, and products with a matrix along it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rows that are multiplied at once on a CPU, at least: few enough to leave the zeros out, enough to be fast.
BLOCK = 32
# Of a matrix with more entries than this share in its blocks, all are multiplied.
WORTHWHILE = 0.75
# Entries below this power of the precision, of the largest entry, are 0: 1e-9 in float32. Tails that far out do not
# change a sum; and the product of four of them, of a volume's three axes and its gray levels, is still a normal number.
UNNOTICED = 1.3


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
        self.runs: list[_Run] = []
        if torch.device(device).type != "cpu":
            return
        matters = (size > torch.finfo(dtype).eps * peak).int()
        place = matters.nonzero()
        reach, block = int((place[:, 0] - place[:, 1]).abs().max()) if len(place) else 0, BLOCK
        while block < reach:  # only the outermost blocks are then cut off by the edge
            block *= 2
        for start in range(0, self.n, block):
            rows = slice(start, min(start + block, self.n))
            used = matters[rows].amax(dim=0).nonzero()
            first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
            one = _Run(start, first, self.matrix[rows, first:last].contiguous())
            if not (self.runs and self.runs[-1].joined(one)):
                self.runs.append(one)
        if sum(run.count * run.matrix[0].numel() for run in self.runs) > WORTHWHILE * self.n**2:
            self.runs = []

    def __call__(self, values: Tensor, axis: int) -> Tensor:
        """Values of any shape, without gradient, with n entries along ``axis`` -> the same shape."""
        shape = values.shape
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        if not self.runs:
            if after == 1:
                return (values.reshape(before, self.n) @ self.matrix.T).view(shape)
            return torch.matmul(self.matrix, values.reshape(before, self.n, after)).view(shape)
        values = values.contiguous()
        product = torch.empty_like(values)
        for run in self.runs:
            if after == 1:
                run.along_rows(values, product, before, self.n)
            else:
                for number in range(before):
                    run.along_columns(values, product, after, number * self.n * after)
        return product


class _Run:
    """Blocks of rows of a matrix that follow each other and are alike, as all but the outer ones of a filter: one call.

    Few calls from Python, at each of which threads wait for each other: views are made straight from the memory.

    Attributes:
        start: first row of the first block; the next one begins where it ends.
        first: column of its first entry.
        matrix: (count, rows, columns): the blocks, which are one.
        count: number of blocks.
    """

    def __init__(self, start: int, first: int, matrix: Tensor) -> None:
        self.start, self.first, self.matrix, self.count = start, first, matrix[None], 1

    def joined(self, other: _Run) -> bool:
        """Take the block that follows into the run, if it is like the others."""
        step = self.count * self.matrix.shape[1]
        alike = other.first == self.first + step and torch.equal(other.matrix[0], self.matrix[0])
        if alike:
            self.count += 1
            self.matrix = self.matrix[:1].expand(self.count, -1, -1)
        return alike

    def along_columns(self, values: Tensor, out: Tensor, width: int, offset: int) -> None:
        """The matrix times ``values`` into ``out``, of both (n, width) at an offset."""
        count, rows, columns = self.matrix.shape
        strides, begin = (rows * width, width, 1), values.storage_offset() + offset
        given = values.as_strided((count, columns, width), strides, begin + self.first * width)
        torch.bmm(self.matrix, given, out=out.as_strided((count, rows, width), strides, offset + self.start * width))

    def along_rows(self, values: Tensor, out: Tensor, height: int, n: int) -> None:
        """``values`` times the transposed matrix into ``out``, both (height, n)."""
        count, rows, columns = self.matrix.shape
        strides = (rows, n, 1)
        given = values.as_strided((count, height, columns), strides, values.storage_offset() + self.first)
        torch.bmm(given, self.matrix.mT, out=out.as_strided((count, height, rows), strides, self.start))
