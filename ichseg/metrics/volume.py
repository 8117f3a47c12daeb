"""What a mask measures."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def hemorrhage_volume(mask: np.ndarray, affine: np.ndarray) -> dict[str, float | int]:
    """Volume and number of lesions of one scan.

    Args:
        mask: (X, Y, Z), anything above 0 is hemorrhage.
        affine: (4, 4) voxel-to-RAS matrix in mm; a voxel measures |det|, also under gantry tilt.

    Returns:
        ``volume_ml`` and ``lesions`` (26-connected parts).
    """
    positive = np.asarray(mask) > 0
    voxel_ml = abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3])) / 1000.0
    _, lesions = ndimage.label(positive, np.ones((3, 3, 3), dtype=bool))
    return {"volume_ml": float(positive.sum()) * voxel_ml, "lesions": int(lesions)}
