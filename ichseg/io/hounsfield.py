"""Do the voxels look like Hounsfield units of a head?"""

from __future__ import annotations

import numpy as np

SOFT_TISSUE_SHARE = 0.04


def lost_intercept(array: np.ndarray) -> int:
    """1024 where voxels look like stored CT numbers (soft tissue near 1,050, nothing below 0), else 0.

    In Hounsfield units next to nothing of a head lies between 1000 and 1100, a narrow slice of bone; in stored
    numbers all of the brain does.
    """
    if array.min() < -200:
        return 0
    return 1024 if float(((array > 1000) & (array < 1100)).mean()) > SOFT_TISSUE_SHARE else 0
