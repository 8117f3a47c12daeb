"""What an affine says: which array axis runs through the slices, and how long a voxel's edges are."""

from __future__ import annotations

import numpy as np


def slice_axis(affine: np.ndarray) -> int:
    """Index (0, 1, 2) of the array axis that runs most nearly from foot to head.

    Args:
        affine: (4, 4) voxel-to-RAS matrix in mm.
    """
    directions = np.asarray(affine, dtype=float)[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    return int(np.argmax(np.abs(directions[2]) / np.where(lengths > 0, lengths, 1.0)))


def spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths in mm along the three array axes."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    return float(x), float(y), float(z)
