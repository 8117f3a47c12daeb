"""Affinity from boundaries: two pixels belong together unless something between them is a boundary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ichseg.methods.pairs import affinity_matrix, half_disc, random_walk, shifted

RADIUS, POWER, DOUBLINGS = 5, 10.0, 8  # of the walk


def path_pixels(offset: Sequence[int]) -> list[tuple[int, int]]:
    """Pixels closer than 1 to the segment from (0, 0) to ``offset`` (down, right), both ends included."""
    down, right = offset
    length = down * down + right * right
    found = []
    for y in range(min(0, down), max(0, down) + 1):
        for x in range(min(0, right), max(0, right) + 1):
            # Squared distance from the line, times its squared length.
            if (down * x - right * y) ** 2 < length:
                found.append((y, x))
    return found


class Paths:
    """The segments of all pairs within a radius.

    Args:
        radius: pixels; 10 in training, 5 in the walk (of maps a quarter of the slice).
    """

    def __init__(self, radius: int = RADIUS) -> None:
        self.offsets = half_disc(radius)

    @cached_property
    def pixels(self) -> list[list[tuple[int, int]]]:
        """For each offset, the pixels of its segment."""
        return [path_pixels(offset) for offset in self.offsets]


def boundary_affinity(boundary: Tensor, paths: Paths) -> Tensor:
    """``a_ij = 1 - max_k B_k`` over the pixels k of the segment from i to j.

    Args:
        boundary: (..., h, w) in [0, 1].
        paths: which pairs.

    Returns:
        (..., P, h, w) for the pixel each offset starts at; what lies beyond the border means nothing.
    """
    highest = [torch.stack([shifted(boundary, pixel) for pixel in pixels]).amax(dim=0) for pixels in paths.pixels]
    return 1 - torch.stack(highest, dim=-3)


def edge_walk(
    maps: Tensor,
    boundary: Tensor,
    radius: int = RADIUS,
    power: float = POWER,
    doublings: int = DOUBLINGS,
) -> Tensor:
    """Random walk that no boundary lets through: ``(map * (1 - B)) T^t``, T of the affinities of boundaries.

    Args:
        maps: (C, h, w).
        boundary: (h, w) in [0, 1], on the same grid; beyond the border it is 1.
        radius: pixels between the two of a pair, at most.
        power, doublings: see :func:`ichseg.methods.pairs.random_walk`.

    Returns:
        (C, h, w).
    """
    if maps.shape[1:] != boundary.shape:
        raise ValueError(f"maps {tuple(maps.shape)} and boundary {tuple(boundary.shape)} are not on one grid")
    around = (radius,) * 4
    paths = Paths(radius)
    fenced = functional.pad(boundary, around, value=1.0)
    spread = functional.pad(maps * (1 - boundary), around)
    matrix = affinity_matrix(boundary_affinity(fenced, paths), paths.offsets, sparse=True)
    walked = random_walk(spread, matrix, power, doublings)
    return walked[:, radius:-radius, radius:-radius]
