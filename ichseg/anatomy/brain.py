"""Where the brain is in a slice, without a network."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.anatomy.planes import dilated, eroded, filled

# Below this share of bone around it, the largest soft part is face or neck, not brain.
ENCLOSED_BY_BONE = 0.6
MOST_SOFT, BONE = 92.0, 85.0  # HU


def intracranial_mask(hounsfield: np.ndarray) -> np.ndarray:
    """(H, W) HU -> bool: the soft tissue enclosed by the skull; all False where there is none.

    Soft tissue is cut from the scalp by an erosion; the largest piece, grown back and filled, is the brain.
    """
    # Where a scan was clipped at 0 HU, air and fat are its least value.
    low, high = float(hounsfield.min()), float(hounsfield.max())
    # Where it was clipped just above blood, bone is its largest value.
    most = MOST_SOFT if high > MOST_SOFT + 1 else max(BONE + 1, high - 1)
    soft = (hounsfield > max(-8.0, low)) & (hounsfield < most)
    pieces, count = ndimage.label(eroded(soft, 3))
    if count == 0:
        return np.zeros(hounsfield.shape, bool)
    sizes = np.bincount(pieces.ravel())[1:]
    brain = dilated(pieces == 1 + int(sizes.argmax()), 3) & soft
    brain = filled(eroded(dilated(brain, 2), 2))
    rim = dilated(brain, 2) & ~brain
    enclosed = (hounsfield[rim] > BONE).mean() if rim.any() else 0.0
    return brain if enclosed > ENCLOSED_BY_BONE else np.zeros(hounsfield.shape, bool)
