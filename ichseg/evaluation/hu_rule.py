"""The baseline any learned method has to beat: a threshold on smoothed Hounsfield units inside the skull."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.anatomy import intracranial_mask

BLOOD_HU = (50.0, 97.0)
SMOOTHING_MM = 0.7
SMALLEST_MM2 = 6.7


def hu_rule(hounsfield: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """Outline blood in one slice with no learning.

    Brain mask, 50 < smoothed HU < 97, opening, specks dropped (60 pixels of a third of a millimeter).

    Args:
        hounsfield: (H, W) HU.
        spacing: in-plane spacing in mm.

    Returns:
        (H, W) bool.
    """
    smooth = ndimage.gaussian_filter(hounsfield.astype(np.float32), [SMOOTHING_MM / s for s in spacing])
    blood = (smooth > BLOOD_HU[0]) & (smooth < BLOOD_HU[1])
    blood &= ndimage.binary_erosion(intracranial_mask(hounsfield), iterations=3)
    blood = ndimage.binary_opening(blood, iterations=2)
    parts, _ = ndimage.label(blood, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel()) * spacing[0] * spacing[1]
    keep = sizes >= SMALLEST_MM2
    keep[0] = False
    return keep[parts]
