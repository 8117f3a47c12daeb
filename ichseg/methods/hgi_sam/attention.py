"""From the attention of one Swin block to a map: pure functions over tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockAttention:
    """How much a block's windows attend to each of their tokens.

    Attributes:
        keys: (images * windows, tokens of a window), see :func:`key_weights`.
        grid: tokens (rows, columns) of the block's input.
        window: tokens (rows, columns) of a window; the input is padded to a multiple of it, below and at the right.
        shift: by how many tokens (rows, columns) the input was rolled before it was cut; 0 for every other block, and
            where a window is as large as the grid.
    """

    keys: Tensor
    grid: tuple[int, int]
    window: tuple[int, int]
    shift: tuple[int, int]

    @property
    def map(self) -> Tensor:
        """(images, rows, columns), on the block's own grid of tokens."""
        return rolled_back(stitched(self.keys, self.grid, self.window), self.shift)[:, : self.grid[0], : self.grid[1]]


def key_weights(attention: Tensor, gradients: Tensor | None = None) -> Tensor:
    """Mean attention that every token of a window gets, each head weighted by the norm of its gradients.

    ``m(k) = (1/T) sum_q M(q, k)`` with ``M = (1/H) sum_h |G_h|_F A_h``. Without gradients every head weighs the same
    (Swin-SAM).

    Args:
        attention: (n, H, T, T), softmax over the last axis: queries before keys.
        gradients: same shape, of the logit.

    Returns:
        (n, T).

    Raises:
        ValueError: another shape.
    """
    if attention.ndim != 4 or attention.shape[2] != attention.shape[3]:
        raise ValueError(f"attention must have shape (n, heads, T, T), not {tuple(attention.shape)}")
    # The mean over queries first: the T x T matrices of the windows are never made.
    heads = attention.mean(dim=2)
    if gradients is not None:
        if gradients.shape != attention.shape:
            raise ValueError(f"gradients {tuple(gradients.shape)} do not fit attention {tuple(attention.shape)}")
        heads = heads * gradients.flatten(2).norm(dim=2)[..., None]
    return heads.mean(dim=1)


def stitched(keys: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
    """(images * windows, T) -> (images, rows, columns): windows side by side, row by row, as they were cut.

    Args:
        keys: one value per token.
        grid: tokens (rows, columns) before padding.
        window: tokens (rows, columns) of a window.

    Returns:
        a map of the padded grid, whose sides are the next multiples of the window.
    """
    rows, columns = (-(-side // step) for side, step in zip(grid, window, strict=True))
    parts = keys.reshape(-1, rows, columns, *window)
    return parts.permute(0, 1, 3, 2, 4).reshape(-1, rows * window[0], columns * window[1])


def rolled_back(maps: Tensor, shift: Sequence[int]) -> Tensor:
    """A map (..., rows, columns) of a block that worked on a grid rolled by minus ``shift``, where it belongs."""
    return torch.roll(maps, tuple(shift), dims=(-2, -1)) if any(shift) else maps


def paired(maps: Sequence[Tensor]) -> Tensor:
    """Maps of a stage's blocks -> one: products of consecutive pairs (unshifted x shifted), averaged.

    Args:
        maps: an even number of (images, rows, columns).

    Raises:
        ValueError: an odd number.
    """
    if not maps or len(maps) % 2:
        raise ValueError(f"a stage needs an even number of blocks, not {len(maps)}")
    return torch.stack([first * second for first, second in zip(maps[::2], maps[1::2], strict=True)]).mean(dim=0)
