"""Pairs of nearby pixels, their affinities as one matrix, and the random walk that spreads maps along it.

What AffinityNet (Ahn & Kwak 2018) and IRNet (Ahn et al. 2019) share.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


def half_disc(radius: int) -> list[tuple[int, int]]:
    """Offsets (down, right) closer than ``radius``, one of each opposite pair; 34 for a radius of 5."""
    if radius < 2:
        raise ValueError(f"radius must be at least 2 pixels, not {radius}")
    right = [(0, x) for x in range(1, radius)]
    reach = range(1 - radius, radius)
    return right + [(y, x) for y in range(1, radius) for x in reach if x * x + y * y < radius * radius]


def shifted(maps: Tensor, offset: Sequence[int], fill: float = 0.0) -> Tensor:
    """(..., h, w) -> what lies at ``offset`` (down, right) of every pixel; ``fill`` beyond the border."""
    down, right = offset
    height, width = maps.shape[-2:]
    result = torch.full_like(maps, fill)
    rows, columns = max(height - abs(down), 0), max(width - abs(right), 0)
    if rows and columns:
        here = (slice(max(-down, 0), max(-down, 0) + rows), slice(max(-right, 0), max(-right, 0) + columns))
        there = (slice(max(down, 0), max(down, 0) + rows), slice(max(right, 0), max(right, 0) + columns))
        result[..., here[0], here[1]] = maps[..., there[0], there[1]]
    return result


def inside(size: Sequence[int], offset: Sequence[int]) -> Tensor:
    """(h, w) bool: the pixels that have a partner at ``offset``."""
    return shifted(torch.ones(tuple(size)), offset) > 0


def affinity_matrix(pairs: Tensor, offsets: Sequence[Sequence[int]], sparse: bool = False) -> Tensor:
    """Affinities of every pixel with its partners -> the symmetric matrix of all pixels, 1 on its diagonal.

    Args:
        pairs: (P, h, w), for each of the P offsets.
        offsets: of :func:`half_disc`.
        sparse: give the pairs alone (CSR), for large grids.

    Returns:
        (h w, h w); 0 for pixels that are not a pair.
    """
    count, height, width = pairs.shape
    if count != len(offsets):
        raise ValueError(f"{count} maps of affinities for {len(offsets)} offsets")
    index = torch.arange(height * width, device=pairs.device).reshape(height, width)
    rows, columns, values = [index.flatten()], [index.flatten()], [torch.ones_like(pairs[0]).flatten()]
    for affinity, offset in zip(pairs, offsets, strict=True):
        valid = inside((height, width), offset).to(pairs.device)
        one, other = index[valid], shifted(index, offset)[valid]
        rows += [one, other]
        columns += [other, one]
        values += [affinity[valid]] * 2
    places = torch.stack([torch.cat(rows), torch.cat(columns)])
    matrix = torch.sparse_coo_tensor(places, torch.cat(values), 2 * [height * width], check_invariants=False)
    if not sparse:
        return matrix.to_dense()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR")  # torch calls it beta
        return matrix.to_sparse_csr()


def random_walk(maps: Tensor, affinity: Tensor, power: float = 8.0, doublings: int = 8) -> Tensor:
    """Spread maps along affinities: ``vec(map) T^t`` with ``T = A^power D^-1`` and ``t = 2^doublings`` steps.

    Every column of T adds up to 1, and it stands on the right: after many steps a pixel holds a mean of those it is
    connected with. (Rows instead of columns, or T on the left, give something else where pixels have more or fewer
    partners.)

    Args:
        maps: (C, h, w).
        affinity: (h w, h w) of :func:`affinity_matrix`, in [0, 1]; ``power`` is taken of each element. A sparse one
            is applied step by step, which is the same walk and, on large grids, far less work.
        power: beta; 8 in AffinityNet, 10 in IRNet.
        doublings: T is squared so often.

    Returns:
        (C, h, w).
    """
    if affinity.layout == torch.sparse_csr:
        return _walked(maps, affinity, power, 2**doublings)
    transition = affinity**power
    transition = transition / transition.sum(dim=0, keepdim=True)
    for _ in range(doublings):
        transition = transition @ transition
    return (maps.flatten(1) @ transition).reshape(maps.shape)


def _walked(maps: Tensor, affinity: Tensor, power: float, steps: int) -> Tensor:
    """``vec(map) T`` so many times. A is symmetric: its rows are its columns."""
    values = affinity.values() ** power
    weights = torch.sparse_csr_tensor(
        affinity.crow_indices(), affinity.col_indices(), values, affinity.shape, check_invariants=False
    )
    sums = weights @ torch.ones(len(affinity), 1, dtype=values.dtype, device=values.device)
    spread = maps.flatten(1).T
    for _ in range(steps):
        spread = (weights @ spread) / sums
    return spread.T.reshape(maps.shape)
