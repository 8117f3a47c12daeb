"""The plane between the halves of a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from ichseg.anatomy.brain import intracranial_mask

FEWEST_VOXELS = 500
SAMPLE = 6000
# Heads are turned and tilted within these angles; further, front and back would look like left and right.
MOST_YAW, MOST_ROLL = np.radians(45), np.radians(30)
# The midline is looked for in about this many slices of about this many pixels a side: a plane needs no more.
MIDLINE_SLICES, MIDLINE_PIXELS = 12, 128


@dataclass(frozen=True)
class Plane:
    """The points r (RAS, mm) with ``normal . r = offset``; the normal points to the patient's right."""

    normal: tuple[float, float, float]
    offset: float

    def distance_mm(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) points -> (n,) signed distances; positive on the patient's right."""
        return np.asarray(points, dtype=float) @ np.array(self.normal) - self.offset


def mid_sagittal_plane(brain: np.ndarray, affine: np.ndarray) -> Plane | None:
    """The plane in which a brain is most nearly its own mirror image; turned and tilted heads are followed.

    Args:
        brain: (X, Y, Z) bool, what lies inside the skull; a coarse grid will do.
        affine: (4, 4) voxel-to-RAS matrix in mm.

    Returns:
        the plane, or None if too little of the brain is there.
    """
    affine, brain = np.asarray(affine, dtype=float), np.asarray(brain, dtype=bool)
    voxels = np.argwhere(brain)
    if len(voxels) < FEWEST_VOXELS:
        return None
    points = voxels[:: max(1, len(voxels) // SAMPLE)] @ affine[:3, :3].T + affine[:3, 3]
    center = voxels.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
    back = np.linalg.inv(affine)

    def plane(turn: np.ndarray) -> Plane:
        yaw, roll, shift = turn
        normal = np.array([np.cos(yaw) * np.cos(roll), np.sin(yaw) * np.cos(roll), np.sin(roll)])
        return Plane(tuple(normal.tolist()), float(normal @ center + shift))

    def asymmetry(turn: np.ndarray) -> float:
        """Share of the brain whose mirror image lies outside of it."""
        if abs(turn[0]) > MOST_YAW or abs(turn[1]) > MOST_ROLL:
            return 1.0
        tried = plane(turn)
        mirrored = points - 2 * tried.distance_mm(points)[:, None] * np.array(tried.normal)
        places = np.rint(mirrored @ back[:3, :3].T + back[:3, 3]).astype(int)
        inside = ((places >= 0) & (places < brain.shape)).all(axis=1)
        return 1.0 - float(brain[tuple(places[inside].T)].sum()) / len(points)

    starts = [np.array([yaw, 0.0, 0.0]) for yaw in np.linspace(-0.8, 0.8, 17)]
    start = min(starts, key=asymmetry)
    simplex = start + np.array([[0, 0, 0], [0.06, 0, 0], [0, 0.06, 0], [0, 0, 3.0]])
    options = {"initial_simplex": simplex, "xatol": 0.002, "fatol": 1e-4, "maxfev": 200}
    return plane(minimize(asymmetry, start, method="Nelder-Mead", options=options).x)


def midline_of(hounsfield: np.ndarray, affine: np.ndarray, axis: int) -> Plane | None:
    """The mid-sagittal plane of a scan (X, Y, Z) in HU, or None where no brain is found.

    Args:
        hounsfield: the scan.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        axis: array axis (0, 1, 2) that runs through the slices.
    """
    steps = [max(1, round(n / MIDLINE_PIXELS)) for n in hounsfield.shape]
    steps[axis] = max(1, round(hounsfield.shape[axis] / MIDLINE_SLICES))
    coarse = np.moveaxis(hounsfield[tuple(slice(None, None, step) for step in steps)], axis, 0)
    brain = np.moveaxis(np.stack([intracranial_mask(one) for one in coarse]), 0, axis)
    return mid_sagittal_plane(brain, affine @ np.diag([*steps, 1.0]))
