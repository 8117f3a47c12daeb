"""The plane between the halves of a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST_LINES = 50
# Shorter lines cross the vertex or the skull base, where the two sides differ most.
SHORT = 0.5
ROUNDS = 3


@dataclass(frozen=True)
class Plane:
    """The points r (RAS, mm) with ``normal . r = offset``; the normal points to the patient's right."""

    normal: tuple[float, float, float]
    offset: float

    def distance_mm(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) points -> (n,) signed distances; positive on the patient's right."""
        return np.asarray(points, dtype=float) @ np.array(self.normal) - self.offset


def mid_sagittal_plane(brain: np.ndarray, affine: np.ndarray) -> Plane | None:
    """Fit the plane through the middles of the left-to-right lines of a brain; turned and tilted heads are followed.

    Args:
        brain: (X, Y, Z) bool, what lies inside the skull.
        affine: (4, 4) voxel-to-RAS matrix in mm.

    Returns:
        the plane, or None if too little of the brain is there.
    """
    affine = np.asarray(affine, dtype=float)
    axis = int(np.argmax(np.abs(affine[0, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
    lines = np.moveaxis(np.asarray(brain, dtype=bool), axis, -1)
    places = np.argwhere(lines.any(axis=-1))
    if len(places) < FEWEST_LINES:
        return None
    chosen = lines[tuple(places.T)]  # (lines, length)
    first = chosen.argmax(axis=1)
    last = chosen.shape[1] - 1 - chosen[:, ::-1].argmax(axis=1)
    length = last - first
    long = length >= SHORT * np.percentile(length, 95)
    voxels = np.insert(places[long].astype(float), axis, (first + last)[long] / 2, axis=1)
    x, y, z = (voxels @ affine[:3, :3].T + affine[:3, 3]).T
    if len(x) < FEWEST_LINES:
        return None
    # x = a + b y + c z, without the lines that lie farthest off: lesions of the skull, wrong edges of the brain.
    terms, kept = np.stack([np.ones_like(y), y, z], axis=1), np.ones(len(x), dtype=bool)
    for _ in range(ROUNDS):
        fit = np.linalg.lstsq(terms[kept], x[kept], rcond=None)[0]
        off = np.abs(x - terms @ fit)
        kept = off <= max(np.percentile(off, 80), 1.0)
    normal = np.array([1.0, -fit[1], -fit[2]])
    scale = np.linalg.norm(normal)
    a, b, c = (float(n) for n in normal / scale)
    return Plane((a, b, c), float(fit[0] / scale))
