"""Masks that cannot be hemorrhage: too much of it, a ring along the skull, the same on both sides."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.anatomy.midline import Plane
from ichseg.anatomy.shell import RIM_MM, Rim, coarse_slices

MOST_SHARE, MOST_ML = 0.25, 300.0  # of the intracranial space; where that is not found
RING_SHARE = 0.65  # of the directions from the middle; large subdurals reach half of them
# Of a mask along the skull, what has its mirror image within a few mm in the mask; hemorrhage stayed below a tenth.
MIRRORED, NEAR_SKULL, MIRROR_ML, MIRROR_MM = 0.25, 0.7, 1.0, 4.5


def mask_doubts(
    mask: np.ndarray,
    mask_affine: np.ndarray,
    hounsfield: np.ndarray,
    affine: np.ndarray,
    axis: int,
    plane: Plane | None,
) -> list[str]:
    """One short sentence per reason not to believe a mask.

    Args:
        mask: (X, Y, Z), anything above 0 is hemorrhage.
        mask_affine: (4, 4) voxel-to-RAS matrix of the mask in mm.
        hounsfield: the scan in HU, on a grid of its own.
        affine: of the scan.
        axis: array axis (0, 1, 2) of the scan that runs through the slices.
        plane: mid-sagittal plane, or None if it is not known.
    """
    mask = np.asarray(mask) > 0
    if not mask.any():
        return []
    grid, marked, brain = coarse_slices(mask, mask_affine, hounsfield, affine, axis)
    ml = float(mask.sum()) * abs(np.linalg.det(mask_affine[:3, :3])) / 1000
    space = float(brain.sum()) * abs(np.linalg.det(grid[:3, :3])) / 1000
    doubts = []
    if ml > MOST_ML or (space and ml > MOST_SHARE * space):
        part = f", {min(1.0, ml / space):.0%} of the space inside the skull" if space else ""
        doubts.append(f"{ml:,.0f} mL marked{part}: implausibly large")
    pixel = np.delete(np.linalg.norm(grid[:3, :3], axis=0), axis)
    rims = [Rim(*pair, pixel) for pair in zip(marked, brain, strict=True)]
    if np.any([rim.thickness > 0 for rim in rims], axis=0).mean() >= RING_SHARE:
        doubts.append("the mask runs all the way around the skull: an artifact rather than blood?")
        return doubts
    near = sum(float(rim.near.sum()) for rim in rims) / max(1, int(marked.sum()))
    if plane is not None and ml >= MIRROR_ML and near >= NEAR_SKULL:
        mirrored = _mirrored_share(np.moveaxis(marked, 0, axis), grid, plane)
        if mirrored >= MIRRORED:
            doubts.append("the mask is nearly symmetric along the skull: bone or an artifact rather than blood?")
    return doubts


def _mirrored_share(marked: np.ndarray, grid: np.ndarray, plane: Plane) -> float:
    """Share of a mask whose mirror image lies in the mask or within a few mm of it."""
    points = np.argwhere(marked) @ grid[:3, :3].T + grid[:3, 3]
    if not len(points):
        return 0.0
    mirrored = points - 2 * plane.distance_mm(points)[:, None] * np.array(plane.normal)
    back = np.linalg.inv(grid)
    places = np.rint(mirrored @ back[:3, :3].T + back[:3, 3]).astype(int)
    places = places.clip(0, np.array(marked.shape) - 1)
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    wide = ndimage.distance_transform_edt(~marked, sampling=spacing) <= MIRROR_MM
    # What crosses the midline is its own mirror image, and no sign of anything.
    apart = np.abs(plane.distance_mm(points)) > RIM_MM
    return float(wide[tuple(places[apart].T)].mean()) if apart.mean() > 0.5 else 0.0
