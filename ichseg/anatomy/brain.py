"""Where the brain is in a slice, without a network."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

# Below this share of bone around it, the largest soft part is face or neck, not brain.
ENCLOSED_BY_BONE = 0.6


def intracranial_mask(hounsfield: np.ndarray) -> np.ndarray:
    """(H, W) HU -> bool: the soft tissue enclosed by the skull; all False where there is none.

    Soft tissue is cut from the scalp by an erosion; the largest piece, grown back and filled, is the brain.
    """
    # Where a scan was clipped at 0 HU, air and fat are its least value.
    soft = (hounsfield > max(-8.0, float(hounsfield.min()))) & (hounsfield < 92)
    pieces, count = ndimage.label(ndimage.binary_erosion(soft, iterations=3))
    if count == 0:
        return np.zeros(hounsfield.shape, bool)
    sizes = np.bincount(pieces.ravel())[1:]
    brain = ndimage.binary_dilation(pieces == 1 + int(sizes.argmax()), iterations=3) & soft
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(brain, iterations=2))
    rim = ndimage.binary_dilation(brain, iterations=2) & ~brain
    enclosed = (hounsfield[rim] > 85).mean() if rim.any() else 0.0
    return brain if enclosed > ENCLOSED_BY_BONE else np.zeros(hounsfield.shape, bool)
