"""Is it one whole head, and no more than a head?"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

PIXEL_MM, STEP_MM = 2.0, 3.0  # a coarse grid will do
TISSUE_HU, PADDING_HU = 0.0, -1100.0
HEAD_CM2 = 50.0  # area of a slice that may be a head's
UPPER_MM = 100.0  # below the vertex neither chin nor shoulders come into view
CUT_MM, CUT_SHARE = 30.0, 0.2  # skin, nose and ears may touch the edge; this much in this share of slices is a cut
TWIN_SHARE, GAP_SHARE = 0.4, 0.3
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
    areas, edges, twins, distance = slice_extents(hounsfield, affine, axis)
    heads = np.flatnonzero(areas > HEAD_CM2 / 5)
    if not len(heads):
        return []
    doubts = []
    length = (heads[-1] - heads[0] + 1) * distance
    if length > MOST_MM:
        doubts.append(f"{length:.0f} mm of the body from foot to head: marks below the head are not reliable")
    upper = slice(int(heads[0]), int(heads[0]) + max(1, round(UPPER_MM / distance)))
    whole = areas[upper] > HEAD_CM2
    if whole.any():
        if (largest := float(areas[upper].max())) > MOST_CM2:
            doubts.append(f"a slice of {largest:.0f} cm\u00b2: {NOT_A_HEAD} Is the voxel size right?")
        cut = float((edges[upper][whole] > CUT_MM).mean())
        if cut > CUT_SHARE:
            doubts.append("the head is cut off at the edge of the field of view: the volume may be too small")
        if float(twins[upper][whole].mean()) > CUT_SHARE or _two_in_a_row(areas):
            doubts.append("two heads in one scan? Volumes are of both")
    return doubts


def slice_extents(
    hounsfield: np.ndarray, affine: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Of some slices, from the head down: area of the largest piece of tissue in cm², how much of it lies at the edge
    of the field of view in mm, whether another piece is nearly as large; and the distance of the slices in mm."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    steps = [max(1, round(PIXEL_MM / mm)) for mm in spacing]
    steps[axis] = max(1, round(STEP_MM / spacing[axis]))
    coarse = np.moveaxis(hounsfield[tuple(slice(None, None, n) for n in steps)], axis, 0)
    if affine[2, axis] > 0:
        coarse = coarse[::-1]
    pixel = np.delete(spacing * steps, axis)
    least = max(TISSUE_HU, float(coarse.min()))
    found = [_slice_extent(one, least, pixel) for one in coarse]
    areas, edges, twins = (np.array(column) for column in zip(*found, strict=True))
    return areas, edges, twins, float(spacing[axis] * steps[axis])


def _slice_extent(one: np.ndarray, least: float, pixel: np.ndarray) -> tuple[float, float, bool]:
    pieces, count = ndimage.label(ndimage.binary_opening(one > least))
    if not count:
        return 0.0, 0.0, False
    sizes = np.bincount(pieces.ravel())[1:] * pixel.prod() / 100
    order = np.argsort(sizes)[::-1]
    largest = pieces == 1 + order[0]
    twin = count > 1 and sizes[order[1]] > max(HEAD_CM2, TWIN_SHARE * sizes[order[0]])
    outside = np.pad(one < PADDING_HU, 1, constant_values=True)
    along = [outside[:-2, 1:-1] | outside[2:, 1:-1], outside[1:-1, :-2] | outside[1:-1, 2:]]
    at_edge = largest & (along[0] | along[1])
    return float(sizes[order[0]]), float(at_edge.sum() * pixel.mean()), bool(twin)


def _two_in_a_row(areas: np.ndarray) -> bool:
    """True if the area of the slices falls to a vertex and rises again."""
    above = np.maximum.accumulate(areas)
    below = np.maximum.accumulate(areas[::-1])[::-1]
    lower = np.minimum(above, below)
    return bool(((lower > 2 * HEAD_CM2) & (areas < GAP_SHARE * lower)).any())
