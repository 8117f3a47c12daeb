"""Lower the logits of pixels that neighboring slices do not confirm."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

REACH = 3  # pixels of the network, about 3 mm: blood moves a little from slice to slice


def support_pixels(logits: Tensor, before: np.ndarray, after: np.ndarray, weight: float = 0.3) -> Tensor:
    """Lower the logit of a pixel by a share of how far the neighboring slices are below it.

    ``z' = z + weight * min(max(N_before, N_after) - z, 0)``, where N is the largest logit within 3 pixels in a
    neighboring slice. A pixel that one of the neighbors confirms is unchanged; nothing is ever raised. At the ends of a
    scan the only neighbor decides, and a single slice is unchanged. Not part of the paper.

    Args:
        logits: (n, H, W) of hemorrhage, slices in physical order.
        before, after: (n,) indices of every slice's neighbors; its own where there is none.
        weight: 0 changes nothing, 1 lowers a pixel to what its neighbors say.

    Returns:
        (n, H, W).

    Raises:
        ValueError: another shape, or a weight outside [0, 1].
    """
    if logits.ndim != 3:
        raise ValueError(f"logits must have shape (n, H, W), not {tuple(logits.shape)}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be between 0 and 1, not {weight}")
    if not weight:
        return logits
    near = largest_near(logits)
    own = np.arange(len(logits))
    # A missing neighbor says what the other one says; where both are missing, the slice itself.
    first, second = np.where(before == own, after, before), np.where(after == own, before, after)
    both = [near[torch.as_tensor(index, device=logits.device).long()] for index in (first, second)]
    return logits + weight * (torch.maximum(*both) - logits).clamp(max=0)


def largest_near(values: Tensor, reach: int = REACH) -> Tensor:
    """The largest value within a square of ``2 reach + 1`` pixels around each: max pooling, but faster on a CPU.

    Windows are joined to larger ones, first along one side, then along the other.

    Args:
        values: (..., H, W).
        reach: pixels.
    """
    found, whole = functional.pad(values, 4 * (reach,), value=float("-inf")), 2 * reach + 1
    for side in (-2, -1):
        window = 1
        while window < whole:
            step = min(window, whole - window)
            rest = found.shape[side] - step
            found = torch.maximum(found.narrow(side, 0, rest), found.narrow(side, step, rest))
            window += step
    return found
