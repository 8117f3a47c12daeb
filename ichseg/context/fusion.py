"""From the maps of two models to one map per slice, fused with those of its neighbors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NORMALIZATIONS = ("weights", "printed", "window")


def amplify(maps: Tensor, scale: float = 2.0) -> Tensor:
    """``tanh(scale * map / max(map))`` per map: lifts the faint parts of layer 1.

    Layer 1 only, per slice and model, before averaging over models. A map of zeros stays zeros.

    Args:
        maps: (..., h, w), not negative.
        scale: the paper's lambda, 2.
    """
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak <= 0, 0, torch.tanh(scale * maps / torch.where(peak <= 0, torch.ones_like(peak), peak)))


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


def vote(probabilities: Tensor, rule: str = "mean") -> Tensor:
    """Combine the probabilities of several classifiers (decision D11; the paper only says "predicted").

    Args:
        probabilities: (models, ...) of hemorrhage.
        rule: ``"mean"`` (default); ``"either"``: the largest, so one model is enough; ``"both"``: the smallest.

    Returns:
        (...).
    """
    if rule == "mean":
        return probabilities.mean(dim=0)
    if rule == "either":
        return probabilities.amax(dim=0)
    if rule == "both":
        return probabilities.amin(dim=0)
    raise ValueError("vote must be one of mean, either, both, not '" + rule + "'")  # TorchScript reads this too


def positive_runs(flags: Sequence[bool] | Tensor) -> list[tuple[int, int]]:
    """Maximal runs of consecutive positive slices, as half-open (start, stop) pairs.

    Args:
        flags: (n,) one per slice, in physical order.
    """
    positive = [bool(f) for f in flags]
    starts = [i for i, f in enumerate(positive) if f and (i == 0 or not positive[i - 1])]
    stops = [i + 1 for i, f in enumerate(positive) if f and (i + 1 == len(positive) or not positive[i + 1])]
    return list(zip(starts, stops, strict=True))


def fuse(maps: Tensor, window: int = 2, weight: float = 0.5, nf: str = "weights") -> Tensor:
    """Spatial context fusion: add the neighboring slices of a run, nearer ones more.

    ``S_l = (E_l + w * sum_{0 < |j-l| <= c} E_j / |j-l|) / NF_l``

    Where the print differs: there the neighbor term carries the current slice's index (no context would flow),
    j = l is not excluded (division by zero), and NF adds slice indices instead of weights (:func:`normalization`).
    Neighbors are always the original maps, never fused ones, so the order of work does not matter.

    Args:
        maps: (n, h, w), the slices of one run in physical order.
        window: c, how many slices away a neighbor may be.
        weight: w, the neighbors' weight.
        nf: the normalization; with the default, each result is a weighted mean of at most 2 c + 1 slices.

    Returns:
        (n, h, w).
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must have shape (n, h, w), not {tuple(maps.shape)}")
    maps = maps if maps.is_floating_point() else maps.float()
    # In double precision, so that a constant run stays constant to the last digit of the maps' own type.
    weights = _weights(len(maps), window, weight) / normalization(len(maps), window, weight, nf)[:, None]
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("lj,jhw->lhw", weights.to(maps), maps)


def normalization(n: int, window: int = 2, weight: float = 0.5, nf: str = "weights") -> Tensor:
    """The normalization factors NF_l of :func:`fuse` for a run of n slices (decision D12).

    - ``"weights"`` (default): the sum of the weights that exist, ``1 + w * sum_d (1/d) * ([l+d <= n] + [l-d >= 1])``.
    - ``"printed"``, for the record: ``1 + w * sum_d (1/d) * (min(n, l+d) + max(1, l-d))``, the paper's expression,
      which adds slice indices: it grows along the scan, and a run of one slice is divided by 2.5.
    - ``"window"``: the print with its plus read as a minus, the length of the window; not the sum of weights either.

    Args:
        n: slices of the run.
        window: c.
        weight: w.
        nf: one of the three above.

    Returns:
        (n,) float64.
    """
    if nf not in NORMALIZATIONS:
        raise ValueError(f"nf must be one of {', '.join(NORMALIZATIONS)}, not '{nf}'")
    if nf == "weights":
        return _weights(n, window, weight).sum(dim=1)
    position = torch.arange(1, n + 1, dtype=torch.float64)
    total = torch.zeros(n, dtype=torch.float64)
    for d in range(1, window + 1):
        low = (position - d).clamp_min(1)
        total += ((position + d).clamp_max(n) + (low if nf == "printed" else -low)) / d
    return 1 + weight * total


def _weights(n: int, window: int, weight: float) -> Tensor:
    """(n, n) float64: what slice j adds to slice l before normalization."""
    distance = (torch.arange(n)[:, None] - torch.arange(n)[None, :]).abs()
    near = (distance > 0) & (distance <= window)
    return torch.where(near, weight / distance.clamp_min(1).double(), 0.0) + torch.eye(n, dtype=torch.float64)


def fuse_scores(scores: Tensor, window: int = 2, weight: float = 0.5) -> Tensor:
    """:func:`fuse` for one number per slice, (n,) -> (n,)."""
    return fuse(scores[:, None, None], window, weight)[:, 0, 0]
