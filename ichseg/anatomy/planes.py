"""Erosion, dilation and filled holes of masks in a plane: what ``scipy.ndimage`` gives, in a fraction of its time."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """(H, W) bool -> ``scipy.ndimage.binary_erosion(mask, iterations=steps)``; four neighbors."""
    inner = np.pad(mask, 1)
    for _ in range(steps):
        kept = inner[1:-1, 1:-1] & inner[:-2, 1:-1]
        for neighbor in (inner[2:, 1:-1], inner[1:-1, :-2], inner[1:-1, 2:]):
            kept &= neighbor
        inner[1:-1, 1:-1] = kept
    return inner[1:-1, 1:-1].copy()


def dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    """(H, W) bool -> ``scipy.ndimage.binary_dilation(mask, iterations=steps)``: four neighbors."""
    inner = np.pad(mask, 1)
    for _ in range(steps):
        grown = inner[1:-1, 1:-1] | inner[:-2, 1:-1]
        for neighbor in (inner[2:, 1:-1], inner[1:-1, :-2], inner[1:-1, 2:]):
            grown |= neighbor
        inner[1:-1, 1:-1] = grown
    return inner[1:-1, 1:-1].copy()


def filled(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> ``scipy.ndimage.binary_fill_holes(mask)``."""
    pieces, _ = ndimage.label(~np.pad(mask, 1))  # what no path of background joins to the edge is inside
    return np.asarray(pieces[1:-1, 1:-1] != pieces[0, 0])
