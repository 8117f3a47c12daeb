"""Implant hemorrhage of known shape into real slices without hemorrhage.

190 positive slices do not teach a classifier what blood looks like; healthy slices with drawn-in blood teach it
as much as one likes, from slice labels alone: the implant's label is known because we put it there.
Shapes are drawn in the pixels of a slice of about 1 mm per pixel (256 pixels over a head).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.data.brain import intracranial_mask
from ichseg.data.subtypes import SUBTYPES

# How often each subtype is drawn.
SHARES = {"EDH": 0.2, "IPH": 0.3, "IVH": 0.12, "SAH": 0.13, "SDH": 0.25}


def implant_hemorrhage(
    hounsfield: np.ndarray, rng: np.random.Generator, subtype: str | None = None
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Draw one hemorrhage into a slice.

    Args:
        hounsfield: (H, W) HU.
        rng: source of chance.
        subtype: EDH, IPH, IVH, SAH or SDH; drawn by :data:`SHARES` if None.

    Returns:
        the new slice (H, W) float32, its exact mask (H, W) bool, and the subtype; or None where the slice has no
        room for it (too little brain, no ventricle to fill).
    """
    brain = intracranial_mask(hounsfield)
    area = int(brain.sum())
    if area < 0.04 * brain.size:
        return None
    scale = float(np.sqrt(area / 16000.0))  # 1 for a mid-brain slice at 256 x 256
    if subtype is None:
        subtype = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    if subtype not in SUBTYPES.values():
        raise ValueError(f"subtype '{subtype}' is unknown; choose one of {', '.join(SUBTYPES.values())}")
    field = _smooth_noise(hounsfield.shape, rng, 12 * scale)
    # Smoothed within the brain only: bone must not leak into what is taken for noise beside the skull.
    inside = brain.astype(np.float32)
    smooth = ndimage.gaussian_filter(hounsfield * inside, 1.2) / np.maximum(ndimage.gaussian_filter(inside, 1.2), 0.05)
    depth = ndimage.distance_transform_edt(brain)
    mask: np.ndarray | None
    if subtype == "IPH":
        mask = _blobs(depth, field, scale, rng)
    elif subtype == "SDH":
        mask = _crescent(brain, depth, field, scale, rng)
    elif subtype == "EDH":
        mask = _lens(brain, depth, field, scale, rng)
    else:
        mask = _filled_fluid(smooth, brain, depth, scale, rng, ventricles=subtype == "IVH")
    if mask is None or mask.sum() < 12:
        return None
    dense = rng.uniform(50, 62) if subtype == "SAH" else rng.uniform(54, 80)
    texture = _smooth_noise(hounsfield.shape, rng, 4.0)
    blood = dense + rng.uniform(1, 5) * texture + (hounsfield - smooth)  # the scanner's own noise stays
    full = rng.uniform(0.65, 1.0)  # less than 1: the slice is only partly in the lesion
    alpha = full * ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(0.5, 1.1))
    result = hounsfield.astype(np.float32)
    if subtype == "IPH" and rng.uniform() < 0.7:
        halo = ndimage.gaussian_filter(
            ndimage.binary_dilation(mask, iterations=int(rng.integers(2, 7))).astype(np.float32), 2
        )
        result = result - rng.uniform(4, 12) * halo * (depth > 2)
    return result + alpha * (np.maximum(blood, result) - result), mask, subtype


def _smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, length: float) -> np.ndarray:
    """Gaussian noise of the given correlation length in pixels, unit variance."""
    coarse = rng.normal(size=[int(n / length) + 4 for n in shape]).astype(np.float32)
    field = ndimage.zoom(coarse, [(n + 1) / (c - 1) for n, c in zip(shape, coarse.shape, strict=True)], order=1)
    field = field[: shape[0], : shape[1]]
    return field / max(float(field.std()), 1e-6)


def _blobs(depth: np.ndarray, field: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """One hematoma, or several small contusions, anywhere in the brain."""
    rows, columns = np.nonzero(depth > 4)
    mask = np.zeros(depth.shape, bool)
    if not len(rows):
        return mask
    several = rng.uniform() < 0.25
    for _ in range(int(rng.integers(2, 6)) if several else 1):
        at = int(rng.integers(len(rows)))
        radius = scale * (rng.uniform(2.5, 6) if several else np.exp(rng.uniform(np.log(4), np.log(26))))
        mask |= _ellipse(
            depth.shape,
            (rows[at], columns[at]),
            radius,
            rng.uniform(0.55, 1.0),
            rng.uniform(0, np.pi),
            0.16 * field,
        )
    return mask & (depth > 2)


def _crescent(brain, depth, field, scale, rng) -> np.ndarray:
    """A layer along the inner table, thickest in its middle."""
    center = ndimage.center_of_mass(brain)
    rows, columns = np.indices(brain.shape)
    angle = np.arctan2(rows - center[0], columns - center[1])
    middle, half = rng.uniform(-np.pi, np.pi), rng.uniform(0.4, 1.4)
    off = np.abs((angle - middle + np.pi) % (2 * np.pi) - np.pi) / half
    thick = scale * rng.uniform(3, 13) * np.sqrt(np.clip(1 - off**2, 0, None)) * (1 + 0.15 * field)
    return brain & (depth <= thick) & (thick > 1)


def _lens(brain, depth, field, scale, rng) -> np.ndarray:
    """A biconvex body pressed inward from the inner table."""
    rows, columns = np.nonzero(brain & (depth <= 1.5))
    center = ndimage.center_of_mass(brain)
    at = int(rng.integers(len(rows)))
    row, column = rows[at], columns[at]
    normal = np.arctan2(row - center[0], column - center[1])
    wide = scale * rng.uniform(12, 38)
    flat = rng.uniform(0.35, 0.65)
    return brain & _ellipse(brain.shape, (row, column), wide, flat, normal + np.pi / 2, 0.08 * field)


def _filled_fluid(smooth, brain, depth, scale, rng, ventricles: bool) -> np.ndarray | None:
    """Fluid turned to blood near one point: deep pieces (ventricles) or those near the surface (sulci, cisterns)."""
    fluid = brain & (smooth < 20) & (smooth > -8)
    fluid &= depth > 14 * scale if ventricles else depth > 1.5
    if ventricles:
        fluid = ndimage.binary_opening(fluid, iterations=1)
    rows, columns = np.nonzero(fluid)
    if len(rows) < 40:
        return None
    at = int(rng.integers(len(rows)))
    reach = scale * rng.uniform(12, 45)
    near = _ellipse(brain.shape, (rows[at], columns[at]), reach, 1.0, 0.0, 0.0)
    mask = fluid & near
    return ndimage.binary_dilation(mask) & brain if not ventricles else mask


def _ellipse(shape, center, radius: float, flatness: float, turn: float, rough) -> np.ndarray:
    """Filled ellipse: long half axis ``radius`` along ``turn``, short one ``flatness`` times it, uneven edge."""
    rows, columns = np.indices(shape, dtype=np.float32)
    dy, dx = rows - center[0], columns - center[1]
    along = np.cos(turn) * dx + np.sin(turn) * dy
    across = -np.sin(turn) * dx + np.cos(turn) * dy
    return np.sqrt((along / radius) ** 2 + (across / (radius * flatness)) ** 2) < 1 + rough
