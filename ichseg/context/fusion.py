"""From the maps of two models to one map per slice that has heard its neighbors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def amplify(maps: Tensor, scale: float = 2.0) -> Tensor:
    """``tanh(scale * map / max(map))`` per map: lifts the faint parts of layer 1.

    Layer 1 only, per slice and model, before averaging over models. A map of zeros stays zeros.

    Args:
        maps: (..., h, w), not negative.
        scale: the paper's lambda, 2.
    """
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak > 0, torch.tanh(scale * maps / torch.where(peak > 0, peak, torch.ones_like(peak))), 0)


def ensemble(maps: Sequence[Tensor]) -> Tensor:
    """Mean over models (bi-model ensemble).

    Args:
        maps: one (n, h, w) per model, at one size.

    Raises:
        ValueError: none given, or their shapes differ.
    """
    if not maps:
        raise ValueError("ensemble needs the maps of at least one model")
    shapes = {tuple(m.shape) for m in maps}
    if len(shapes) > 1:
        raise ValueError(f"the models' maps differ in shape: {sorted(shapes)}")
    return torch.stack(list(maps)).mean(dim=0)


def positive_runs(flags: Sequence[bool] | Tensor) -> list[tuple[int, int]]:
    """Maximal runs of consecutive positive slices, as half-open (start, stop) pairs.

    Args:
        flags: (n,) one per slice, in physical order.
    """
    positive = [bool(f) for f in flags]
    starts = [i for i, f in enumerate(positive) if f and (i == 0 or not positive[i - 1])]
    stops = [i + 1 for i, f in enumerate(positive) if f and (i + 1 == len(positive) or not positive[i + 1])]
    return list(zip(starts, stops, strict=True))


def fuse(maps: Tensor, window: int = 2, weight: float = 0.5) -> Tensor:
    """Spatial context fusion: add the neighboring slices of a run, nearer ones more.

    ``S_l = (E_l + w * sum_{0 < |j-l| <= c} E_j / |j-l|) / (1 + w * sum of the 1/|j-l| that exist)``

    Where the print differs: there the neighbor term carries the current slice's index (no context would flow),
    j = l is not excluded (division by zero), and the normalization sums slice indices instead of weights
    (D12). Neighbors are always the original maps, never fused ones, so the order of work does not matter.

    Args:
        maps: (n, h, w), the slices of one run in physical order.
        window: c, how many slices away a neighbor may be.
        weight: w, the neighbors' weight.

    Returns:
        (n, h, w), each a weighted mean of at most 2 c + 1 slices.
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must have shape (n, h, w), not {tuple(maps.shape)}")
    n = len(maps)
    distance = (torch.arange(n)[:, None] - torch.arange(n)[None, :]).abs()
    near = (distance > 0) & (distance <= window)
    # In double precision, so that a constant run stays constant to the last digit of the maps' own type.
    weights = torch.where(near, weight / distance.clamp_min(1).double(), 0.0) + torch.eye(n, dtype=torch.float64)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(maps)
    return torch.einsum("lj,jhw->lhw", weights, maps)
