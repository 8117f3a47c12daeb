"""Is it one whole head, and no more than a head?"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import ndimage

PIXEL_MM, STEP_MM = 2.0, 3.0  # a coarse grid will do
TISSUE_HU, PADDING_HU = 0.0, -1100.0
HEAD_CM2 = 50.0  # area of a slice that may be a head's
UPPER_MM = 100.0  # below the vertex neither chin nor shoulders come into view
CUT_MM, CUT_SHARE = 30.0, 0.2  # skin, nose and ears may touch the edge; this much in this share of slices is a cut
TWIN_SHARE, GAP_SHARE = 0.4, 0.3
FEW_SLICES = 5
AIR_RANGE, AIR_SHARE = (-1020.0, -900.0), 0.03
TWICE_SHARE = 0.3  # of the slices
MOST_MM = 280.0  # a head with its neck
MOST_CM2 = 400.0  # adults have 160 to 260 in their largest slice
NOT_A_HEAD = "not a head?"


def extent_doubts(hounsfield: np.ndarray, affine: np.ndarray, axis: int) -> list[str]:
    """One short sentence if a scan (X, Y, Z) shows a head cut off at its edge, two heads, or more than a head.

    Args:
        hounsfield: HU, or HU clipped to a window.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        axis: array axis (0, 1, 2) that runs through the slices; nothing is said unless it runs from foot to head.
    """
    coarse, pixel, distance = _coarse(hounsfield, affine, axis)
    areas, edges, twins = slice_extents(coarse, pixel)
    heads = np.flatnonzero(areas > HEAD_CM2 / 5)
    if not len(heads):
        return []
    doubts = []
    length = (heads[-1] - heads[0] + 1) * distance
    if length > MOST_MM:
        doubts.append(f"the scan covers {length:.0f} mm from foot to head: the mask below the head is unreliable")
    upper = slice(int(heads[0]), int(heads[0]) + max(1, round(UPPER_MM / distance)))
    whole = areas[upper] > HEAD_CM2
    if len(areas) >= FEW_SLICES and float(areas.max()) < HEAD_CM2:
        doubts.append(f"largest cross-section only {areas.max():.0f} cm\u00b2: {NOT_A_HEAD} Is the voxel size right?")
    if whole.any():
        if (largest := float(areas[upper].max())) > MOST_CM2:
            doubts.append(f"a slice of {largest:.0f} cm\u00b2: {NOT_A_HEAD} Is the voxel size right?")
        cut = float((edges[upper][whole] > CUT_MM).mean())
        if cut > CUT_SHARE:
            doubts.append("the head is cut off at the edge of the field of view: the volume may be too small")
        if float(twins[upper][whole].mean()) > CUT_SHARE or _two_in_a_row(areas):
            doubts.append("two heads in one scan? Volumes include both")
    return doubts or _repeat_doubts(coarse)


def _coarse(hounsfield: np.ndarray, affine: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Slices (n, H, W) from the head down on a coarse grid, the edges of a pixel and the distance of slices in mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    steps = [max(1, round(PIXEL_MM / mm)) for mm in spacing]
    steps[axis] = max(1, round(STEP_MM / spacing[axis]))
    coarse = np.moveaxis(hounsfield[tuple(slice(None, None, n) for n in steps)], axis, 0)
    coarse = coarse[::-1] if affine[2, axis] > 0 else coarse
    return coarse, np.delete(spacing * steps, axis), float(spacing[axis] * steps[axis])


def slice_extents(coarse: np.ndarray, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of slices (n, H, W): area of the largest piece of tissue in cm², how much of it lies at the edge of the field of
    view in mm, and whether another piece is nearly as large."""
    least = max(TISSUE_HU, float(coarse.min()))
    padding = _padding(coarse)
    found = [_slice_extent(one, least, pixel, padding) for one in coarse]
    areas, edges, twins = (np.array(column) for column in zip(*found, strict=True))
    return areas, edges, twins


def _padding(coarse: np.ndarray) -> float | None:
    """The one value in all corners, if it is not that of air: then it surrounds the field of view."""
    corners = coarse[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    value = float(corners.flat[0])
    if not (corners == value).all():
        return None
    if value > float(coarse.min()) + 100:
        return value
    air = (coarse > AIR_RANGE[0]) & (coarse < AIR_RANGE[1]) & (coarse != value)
    return value if float(air.mean()) > AIR_SHARE else None


def _repeat_doubts(coarse: np.ndarray) -> list[str]:
    """The very same slice more than once: two scans in one file, or every slice twice."""
    with_tissue = [one for one in coarse if float(one.max()) > TISSUE_HU]
    found = Counter(one.tobytes() for one in with_tissue)
    # A made-up head may have equal slices only; no scanner makes two.
    twice = sum(count for count in found.values() if count > 1)
    if len(found) > 2 and twice > TWICE_SHARE * len(with_tissue):
        return ["slices appear more than once: volumes are too large"]
    return []


def _slice_extent(one: np.ndarray, least: float, pixel: np.ndarray, padding: float | None) -> tuple[float, float, bool]:
    pieces, count = ndimage.label(ndimage.binary_opening(one > least))
    if not count:
        return 0.0, 0.0, False
    sizes = np.bincount(pieces.ravel())[1:] * pixel.prod() / 100
    order = np.argsort(sizes)[::-1]
    largest = pieces == 1 + order[0]
    twin = count > 1 and sizes[order[1]] > max(HEAD_CM2, TWIN_SHARE * sizes[order[0]])
    beyond = (one < PADDING_HU) | (one == padding) if padding is not None else one < PADDING_HU
    outside = np.pad(beyond, 1, constant_values=True)
    along = [outside[:-2, 1:-1] | outside[2:, 1:-1], outside[1:-1, :-2] | outside[1:-1, 2:]]
    at_edge = largest & (along[0] | along[1])
    return float(sizes[order[0]]), float(at_edge.sum() * pixel.mean()), bool(twin)


def _two_in_a_row(areas: np.ndarray) -> bool:
    """True if the area of the slices falls to a vertex and rises again."""
    above = np.maximum.accumulate(areas)
    below = np.maximum.accumulate(areas[::-1])[::-1]
    lower = np.minimum(above, below)
    return bool(((lower > 2 * HEAD_CM2) & (areas < GAP_SHARE * lower)).any())
