"""Do the voxels look like Hounsfield units of a head?"""

from __future__ import annotations

import numpy as np

SOFT_TISSUE_SHARE = 0.04
# Brain in a soft kernel has noise of some HU; a bone kernel has ten times that.
BONE_KERNEL_HU = 25.0
NOT_A_HEAD = "not a head?"
HEAD_MM = (80.0, 400.0)
SAMPLE = 2**21  # voxels that are enough to count tissue or to measure noise


def lost_intercept(array: np.ndarray) -> int:
    """1024 where voxels look like stored CT numbers (soft tissue near 1,050, nothing below 0), else 0.

    In Hounsfield units next to nothing of a head lies between 1000 and 1100, a narrow slice of bone; in stored
    numbers all of the brain does.
    """
    if array.min() < -200:
        return 0
    some = array.ravel()[:: max(1, round(array.size / SAMPLE))]
    return 1024 if float(((some > 1000) & (some < 1100)).mean()) > SOFT_TISSUE_SHARE else 0


def intensity_doubts(array: np.ndarray) -> list[str]:
    """One short sentence per reason not to take finite voxels (X, Y, Z) for Hounsfield units of a soft kernel."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        return [f"every voxel is {low:g}: there is no picture"]
    if lost_intercept(array):
        return ["no rescale intercept? soft tissue lies near 1,050 instead of 40 HU; the mask is not to be trusted"]
    if low >= 0 and high <= 1:
        return ["values from 0 to 1 are not Hounsfield units; the mask is not to be trusted"]
    if low >= 0 and high <= 255:
        return ["values from 0 to 255: an 8-bit picture, not Hounsfield units; the mask is not to be trusted"]
    doubts = []
    if low > -200:
        doubts.append(f"nothing below {low:g}: clipped to a window, or not a CT")
    # Brain is soft tissue whose neighbors are soft tissue: elsewhere neighbors differ for a reason.
    some = array[:, :: max(1, round(array.size / SAMPLE))]
    first, second = some[:-1], some[1:]
    soft = (np.abs(first - 35) < 60) & (np.abs(second - 35) < 60)
    if soft.sum() > 1000 and float(np.std(first[soft] - second[soft])) / np.sqrt(2) > BONE_KERNEL_HU:
        doubts.append("very noisy soft tissue: a bone kernel?")
    return doubts


def size_doubts(shape: tuple[int, ...], spacing: tuple[float, float, float], axis: int) -> list[str]:
    """One short sentence if the field of view across the slices cannot be that of a head."""
    plane = [n * mm for number, (n, mm) in enumerate(zip(shape, spacing, strict=True)) if number != axis]
    if HEAD_MM[0] <= min(plane) and max(plane) <= HEAD_MM[1]:
        return []
    return [f"a field of view of {plane[0]:.0f} x {plane[1]:.0f} mm: {NOT_A_HEAD}"]
