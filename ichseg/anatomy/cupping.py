"""Brain that is brighter near bone than in the middle: how much, from the head at hand.

Beam hardening, scatter, and sharp kernels brighten brain near the skull, on both sides and all around, in some
scanners as much as blood. Blood outside the brain is on one side, or over a short arc, or in few slices. So
the median HU at a distance from bone is taken apart by direction and slice, and what most of the parts agree on is the
scanner's.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from ichseg.anatomy.brain import intracranial_mask

# mm from the inner table. The innermost 3 mm share their pixels with bone in every scan, and tell nothing.
EDGES_MM = (3.0, 4.5, 6.0, 8.0, 10.0, 13.0, 16.0)
SECTORS = 12
AROUND_MM = 10.0  # slices so far below and above are heard as well
AGREED = 0.4  # quantile of the parts: real blood in up to half of them changes little
FEWEST_PIXELS, FEWEST_DEEP = 20, 500
SMOOTH_PIXELS = 0.8  # or noise tears the brain's mask
MOST_HU = 40.0


def cupping(hounsfield: np.ndarray, pixel_mm: float, step_mm: float) -> np.ndarray:
    """How much brighter the brain is for its distance to bone.

    Compared with the middle of all slices: a slice that is brighter as a whole, as near the vertex, is evened out too.

    Args:
        hounsfield: (slices, H, W) HU.
        pixel_mm: mm per pixel in plane.
        step_mm: mm between slices.

    Returns:
        (slices, H, W) float32 HU to subtract, 0 or more; 0 outside the brain and where there is too little of it.
    """
    depth = np.stack([brain_depth(one, pixel_mm) for one in hounsfield])
    deep = depth > EDGES_MM[-1]
    result = np.zeros(hounsfield.shape, np.float32)
    if int(deep.sum()) < FEWEST_DEEP:
        return result
    base = float(np.median(hounsfield[deep]))
    parts = np.stack([_parts(one, far) for one, far in zip(hounsfield, depth, strict=True)])
    centers = [*((a + b) / 2 for a, b in pairwise(EDGES_MM)), EDGES_MM[-1] + 2]
    around = max(1, round(AROUND_MM / step_mm)) if step_mm > 0 else 1
    for index in np.flatnonzero(depth.any(axis=(1, 2))):
        near = parts[max(index - around, 0) : index + around + 1].reshape(-1, len(EDGES_MM))
        known = np.flatnonzero(~np.isnan(near).all(axis=0))
        if not len(known):
            continue
        middle = np.nanquantile(near[:, known], AGREED, axis=0)
        # Near the vertex no brain is far from bone: there the deepest that is known stands for the rest.
        excess = np.clip(np.interp(np.arange(len(EDGES_MM)), known, middle) - base, 0, MOST_HU)
        excess = np.maximum.accumulate(excess[::-1])[::-1]  # it never rises with the distance from bone
        result[index] = np.interp(depth[index], centers, excess) * (depth[index] > 0)
    return result


def brain_depth(hounsfield: np.ndarray, pixel_mm: float) -> np.ndarray:
    """(H, W) HU -> (H, W) mm from the inner table, in plane; 0 outside the brain."""
    brain = intracranial_mask(ndimage.gaussian_filter(hounsfield, SMOOTH_PIXELS))
    if not brain.any():
        return np.zeros(hounsfield.shape, np.float32)
    return ndimage.distance_transform_edt(brain).astype(np.float32) * pixel_mm


def _parts(hounsfield: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(SECTORS, distances) median HU of the parts of one slice; NaN where there is too little."""
    bins = len(EDGES_MM)
    medians = np.full(SECTORS * bins, np.nan)
    rows, columns = np.nonzero(depth >= EDGES_MM[0])
    if len(rows):
        angle = np.arctan2(rows - rows.mean(), columns - columns.mean()) / (2 * np.pi) + 0.5
        sector = np.minimum((angle * SECTORS).astype(int), SECTORS - 1)
        part = sector * bins + np.digitize(depth[rows, columns], EDGES_MM) - 1
        counts = np.bincount(part, minlength=len(medians))
        told = np.flatnonzero(counts >= FEWEST_PIXELS)
        if len(told):
            medians[told] = ndimage.median(hounsfield[rows, columns], part, told)
    return medians.reshape(SECTORS, bins)
