"""Bilateral filter of (position, gray level) on a grid: linear in the number of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from ichseg.crf.axis import AxisProduct, gaussian_matrix

# Whole gray levels are nodes of their own up to this many; a wider range is spread over as many nodes.
MOST_LEVELS = 2048
# Neighboring pixels often share a node, and sums into one place wait for each other; so pixels are visited in the
# order of this many strips of the image by turns.
STRIPS = 8
# So many nodes per pixel are too many: gray levels are then spread onto fewer of them.
CROWDED = 8
# Nodes per standard deviation along an axis: the error falls with the square, the cost of the blur rises with it.
NODES_PER_SIGMA = 3


class PixelGrid:
    """Where the pixels of images of one shape lie on the grid: for every pixel its corners and their shares.

    Args:
        shape: spatial shape.
        sigmas: spatial standard deviation per axis, in pixels of that axis.
        device, dtype: of the values.
    """

    def __init__(self, shape: Sequence[int], sigmas: Sequence[float], device: torch.device, dtype: torch.dtype) -> None:
        axes = [_Nodes.along(n, sigma, device, dtype) for n, sigma in zip(shape, sigmas, strict=True)]
        self.counts = [axis.count for axis in axes]
        self.kernels = [axis.kernel for axis in axes]
        self.strips = math.gcd(math.prod(shape), STRIPS)
        lower, steps, shares = _zeros(axes), [], []
        for number, axis in enumerate(axes):
            lower = lower * axis.count + _broadcast(axis.lower, number, len(axes))
        for sides in product(*[range(len(axis.shares)) for axis in axes]):
            step, share = 0, torch.ones([1] * len(axes), device=device, dtype=dtype)
            for number, (axis, side) in enumerate(zip(axes, sides, strict=True)):
                step = step * axis.count + side
                share = share * _broadcast(axis.shares[side], number, len(axes))
            steps.append(step)
            shares.append(self.by_turns(share.flatten()))
        self.lower = self.by_turns(lower.flatten())  # (N,) index of every pixel's first corner
        self.corners = list(zip(steps, shares, strict=True))  # how much further a corner lies, what it gets (N,)

    def by_turns(self, values: Tensor, factors: Tensor | None = None) -> Tensor:
        """(..., N) pixels in the order of the image, times factors -> in that of strips by turns; always a copy."""
        turned = values.new_empty(values.shape)
        _copy(self._strips(values).transpose(-1, -2), turned.view(*values.shape[:-1], -1, self.strips),
              None if factors is None else self._strips(factors).transpose(-1, -2))  # fmt: skip
        return turned

    def in_order(self, values: Tensor, out: Tensor, factors: Tensor | None = None) -> None:
        """The way back, times factors, into ``out``."""
        turned = values.view(*values.shape[:-1], -1, self.strips).transpose(-1, -2)
        target = out.view(*out.shape[:-1], self.strips, -1)
        _copy(turned, target, None if factors is None else self._strips(factors))

    def _strips(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], self.strips, -1)


class GridBilateralFilter:
    """Gaussian of position and gray level on a bilateral grid.

    Whole gray levels are kept one by one. Along every spatial axis values are spread linearly onto nodes a third of a
    sigma apart, meet a kernel there, and are read back linearly; that kernel is fitted so that the three steps
    together come nearest to the Gaussian, in least squares over the axis's pixels. Along an axis with a sigma of
    few pixels the nodes are the pixels themselves. Gray levels that are not whole numbers are spread linearly too.

    Adams, Baek and Davis 2010 call the sparse cousin of this a permutohedral lattice; gray CT has so few
    feature dimensions that a dense grid is smaller and nearer to the exact sum.

    Results are the same bits on every run with the same number of threads; on CUDA too, where sums are made in
    integers.

    Args:
        image: (B, 1, *S) gray levels.
        grid: of the same spatial shape; one grid serves any number of images.
        intensity_sigma: standard deviation in gray levels of the one channel.

    Raises:
        ValueError: a range of gray levels far wider than the intensity sigma.
    """

    def __init__(self, image: Tensor, grid: PixelGrid, intensity_sigma: float) -> None:
        self.grid = grid
        gray = grid.by_turns(image.flatten(1))
        above = gray - gray.amin(dim=1, keepdim=True)
        # Of what was subtracted and rounded: the difference of the ends may be a level less.
        highest = float(above.amax())
        # Nodes for every level would outnumber the pixels by far where the sigma in space is small.
        crowded = math.prod(grid.counts) * highest > CROWDED * image[0].numel()
        levels = _Nodes.of_levels(above, highest, intensity_sigma, crowded)
        self.shape = (len(image), levels.count, *grid.counts)
        self.kernels = [levels.kernel, *grid.kernels]
        sheet = math.prod(grid.counts)
        first = torch.arange(len(image), device=image.device)[:, None] * (levels.count * sheet) + grid.lower
        self.index = first.add_(levels.lower, alpha=sheet).flatten()  # (B * N,)
        # Reading is faster with 32-bit indices; scatter_add_ takes 64-bit ones only.
        self.places = self.index.int() if math.prod(self.shape) < 2**31 else self.index
        # (how much further on the flat grid, what is given there), one per corner
        self.corners = [
            (side * sheet + step, share if len(levels.shares) == 1 else share * levels.shares[side])
            for side in range(len(levels.shares))
            for step, share in grid.corners
        ]

    def __call__(self, values: Tensor) -> Tensor:
        """(B, C, *S), without gradient -> same shape."""
        return self.scaled(values, None, None)

    def scaled(self, values: Tensor, before: Tensor | None, after: Tensor | None) -> Tensor:
        """``after * filter(before * values)``, with factors (B, 1, *S), which cost nothing while values are moved."""
        filtered = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        first, last = (None if factors is None else factors.flatten(1) for factors in (before, after))
        for channel, result in zip(values.flatten(2).unbind(1), filtered.view(*values.shape[:2], -1).unbind(1),
                                   strict=True):  # fmt: skip
            self.grid.in_order(self._filter(channel, first), result, last)
        return filtered

    def _filter(self, values: Tensor, factors: Tensor | None) -> Tensor:
        """(B, N) in the order of the image -> (B, N) by turns."""
        values = self.grid.by_turns(values, factors)  # whose memory is used again
        part = torch.empty_like(values)
        nodes = self._spread(values, part)
        for axis, kernel in enumerate(self.kernels, start=1):
            nodes = kernel(nodes, axis)
        nodes, read = nodes.view(-1), part.view(-1)
        for number, (step, share) in enumerate(self.corners):
            torch.index_select(nodes[step:], 0, self.places, out=read)
            if number == 0:
                torch.mul(part, share, out=values)
            else:
                values.addcmul_(part, share)
        return values

    def _spread(self, values: Tensor, part: Tensor) -> Tensor:
        """(B, N) by turns -> (B, levels, *nodes); ``part`` is room for as many values."""
        if values.is_cuda:
            return self._spread_in_integers(values)
        total, given = values.new_zeros(math.prod(self.shape)), part.view(-1)
        for step, share in self.corners:
            torch.mul(values, share, out=part)
            total[step:].scatter_add_(0, self.index, given)
        return total.view(self.shape)

    def _spread_in_integers(self, values: Tensor) -> Tensor:
        """The same on a GPU, whose additions come in any order: of integers the sum does not depend on it."""
        peak = values.abs().amax().clamp_min(torch.finfo(values.dtype).tiny).double()
        unit = peak / 2.0 ** (62 - math.ceil(math.log2(values.numel() + 1)))
        whole = torch.zeros(math.prod(self.shape), dtype=torch.long, device=values.device)
        for step, share in self.corners:
            whole[step:].scatter_add_(0, self.index, (values.double() * share / unit).round().long().flatten())
        return (whole.double() * unit).to(values.dtype).reshape(self.shape)


def _copy(values: Tensor, out: Tensor, factors: Tensor | None) -> None:
    if factors is None:
        out.copy_(values)
    else:
        torch.mul(values, factors, out=out)


def _zeros(axes: Sequence[_Nodes]) -> Tensor:
    return torch.zeros([1] * len(axes), dtype=torch.long, device=axes[0].lower.device)


def _broadcast(values: Tensor, axis: int, axes: int) -> Tensor:
    """(n,) -> (1, ..., n, ..., 1)."""
    return values.reshape([-1 if other == axis else 1 for other in range(axes)])


class _Nodes:
    """Where the points of one axis lie between nodes one step apart, and the kernel between nodes.

    Attributes:
        count: number of nodes.
        lower: index of the node at or below each point.
        shares: per side (the node itself; the next one, unless every point is on a node) what it gets of a point.
        kernel: between the nodes.
    """

    def __init__(self, positions: Tensor, kernel: AxisProduct, between: bool) -> None:
        """Positions in steps from the first node; ``between``: they may lie between nodes."""
        self.count, self.kernel = kernel.n, kernel
        if not between:
            self.lower, self.shares = positions.round().long(), [torch.ones_like(positions)]
            return
        self.lower = positions.floor().clamp(0, self.count - 2).long()
        upper = positions - self.lower
        self.shares = [1 - upper, upper]

    @classmethod
    def along(cls, n: int, sigma: float, device: torch.device, dtype: torch.dtype) -> _Nodes:
        """Nodes of a spatial axis of n pixels, the first and the last on the first and the last pixel."""
        pixels = torch.arange(n, dtype=torch.float64)
        exact = gaussian_matrix(pixels, pixels, sigma)
        count = math.ceil((n - 1) * NODES_PER_SIGMA / sigma) + 1
        if count > n / 1.5:
            return cls(pixels.to(device, dtype), AxisProduct(exact, device, dtype), between=False)
        positions = pixels * ((count - 1) / (n - 1))
        # The kernel G for which S G S' is nearest to the Gaussian between the pixels, in squares: G = S+ K S+'.
        spread = (1 - (positions[:, None] - torch.arange(count)[None, :]).abs()).clamp_min(0)
        inverse = torch.linalg.pinv(spread)
        kernel = AxisProduct(inverse @ exact @ inverse.T, device, dtype)
        return cls(positions.to(device, dtype), kernel, between=True)

    @classmethod
    def of_levels(cls, gray: Tensor, highest: float, sigma: float, crowded: bool) -> _Nodes:
        """Nodes of gray levels (B, N) from 0 to ``highest``; ``crowded``: no more of them than the sigma needs."""
        crowded = crowded and sigma > NODES_PER_SIGMA
        whole = not crowded and highest < MOST_LEVELS and bool((gray == gray.round()).all())
        finest = sigma / NODES_PER_SIGMA if crowded else min(1.0, sigma / NODES_PER_SIGMA)
        step = 1.0 if whole else max(finest, highest / (MOST_LEVELS - 2))
        if step > sigma and not whole:
            raise ValueError(
                f"a gray-level range of {highest:g} is too large for an intensity sigma of {sigma:g}; "
                "scale the image to 0..255"
            )
        count = int(highest / step) + (1 if whole else 2)
        if whole:
            return cls(gray, _level_kernel(count, sigma, 1.0, gray.device, gray.dtype), between=False)
        # Spreading linearly over one step adds, on average, a variance of 1/6, and reading back as much again:
        # the kernel is narrower by as much, and keeps the Gaussian's area.
        narrower = math.sqrt((sigma / step) ** 2 - 1 / 3)
        kernel = _level_kernel(count, narrower, sigma / step / narrower, gray.device, gray.dtype)
        return cls(gray / step, kernel, between=True)


@lru_cache(maxsize=2)  # images of one kind have as many levels
def _level_kernel(count: int, sigma: float, peak: float, device: torch.device, dtype: torch.dtype) -> AxisProduct:
    nodes = torch.arange(count, dtype=torch.float64)
    return AxisProduct(gaussian_matrix(nodes, nodes, sigma) * peak, device, dtype)
