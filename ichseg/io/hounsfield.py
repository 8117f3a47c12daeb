"""Do the voxels look like Hounsfield units of a head?"""

from __future__ import annotations

import numpy as np

SOFT_TISSUE_SHARE = 0.04
# Brain in a soft kernel has noise of some HU; a bone kernel has ten times that.
BONE_KERNEL_HU = 25.0
NOT_A_HEAD = "not a head?"
HEAD_MM = (80.0, 400.0)
SLICES_MM = (0.2, 20.0)
# Calcium and metal end below it, even on scanners that go beyond 12 bits.
MOST_HU = 70000.0
# Brain is what most of the soft tissue of a head CT is.
BRAIN_SHARE, BRAIN_HU = 0.02, (18.0, 54.0)
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


def brain_level(array: np.ndarray) -> tuple[float, float]:
    """Share of the voxels between 4 and 96, and the value that is most frequent among them."""
    some = array.ravel()[:: max(1, round(array.size / SAMPLE))]
    # What a window has clipped heaps up at its end.
    counts, edges = np.histogram(some[some < array.max()], np.arange(4, 97, 4))
    smooth = np.convolve(counts, [1, 1, 1], "same")
    return float(counts.sum()) / len(some), float(edges[int(smooth.argmax())]) + 2


def intensity_doubts(array: np.ndarray) -> list[str]:
    """One short sentence per reason not to take finite voxels (X, Y, Z) for Hounsfield units of a soft kernel."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        return [f"every voxel is {low:g}: blank image"]
    if lost_intercept(array):
        return ["no rescale intercept? soft tissue is near 1,050 instead of 40 HU; the mask is unreliable"]
    if low >= 0 and high <= 1:
        return ["values from 0 to 1 are not Hounsfield units; the mask is unreliable"]
    if low >= 0 and high <= 255:
        return ["values from 0 to 255: an 8-bit image, not Hounsfield units; the mask is unreliable"]
    doubts = []
    if low > -200:
        doubts.append(f"no values below {low:g}: clipped to a window, or not CT")
    if high > MOST_HU:
        doubts.append(f"values up to {high:g} are not Hounsfield units")
    share, level = brain_level(array)
    if share < BRAIN_SHARE:
        doubts.append("almost no voxels have the gray level of brain: not Hounsfield units? The mask is unreliable")
    elif not BRAIN_HU[0] <= level <= BRAIN_HU[1]:
        doubts.append(f"brain is near {level:.0f} instead of 35 HU: wrong rescale slope? The mask is unreliable")
    # Brain is soft tissue whose neighbors are soft tissue: elsewhere neighbors differ for a reason.
    some = array[:, :: max(1, round(array.size / SAMPLE))]
    first, second = some[:-1], some[1:]
    soft = (np.abs(first - 35) < 60) & (np.abs(second - 35) < 60)
    if soft.sum() > 1000 and float(np.std(first[soft] - second[soft])) / np.sqrt(2) > BONE_KERNEL_HU:
        doubts.append("very noisy soft tissue: bone kernel?")
    return doubts


def size_doubts(shape: tuple[int, ...], spacing: tuple[float, float, float], axis: int) -> list[str]:
    """One short sentence if the field of view or the distance of the slices cannot be that of a head CT."""
    doubts = []
    if not SLICES_MM[0] <= spacing[axis] <= SLICES_MM[1]:
        doubts.append(f"slices {spacing[axis]:g} mm apart: volumes are unreliable")
    plane = [n * mm for number, (n, mm) in enumerate(zip(shape, spacing, strict=True)) if number != axis]
    if not (HEAD_MM[0] <= min(plane) and max(plane) <= HEAD_MM[1]):
        doubts.append(f"field of view {plane[0]:.0f} x {plane[1]:.0f} mm: {NOT_A_HEAD}")
    return doubts
