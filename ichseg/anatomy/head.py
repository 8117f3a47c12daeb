"""Where the head is in a scan, without a network."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

TISSUE_HU = 25.0  # denser than fat, water and padding: in a scan clipped at 0 HU the scalp's fat is gone anyway
MARGIN = 1.06
COARSE_PIXELS = 160
# A jaw, a shoulder or an arm in a few slices does not move the box; most slices show the calvaria.
FEWEST_SLICES = 0.2


def head_box(slices: np.ndarray, pixel: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float, float]:
    """A square around the head, the same for all slices of a scan.

    Args:
        slices: (n, H, W) HU.
        pixel: mm (or any unit) along rows and columns.

    Returns:
        row and column of the square's center in pixels, its side in the unit of ``pixel``; the whole slice where
        nothing is dense.
    """
    step = max(1, round(max(slices.shape[1:]) / COARSE_PIXELS))
    found = []
    for one in slices[:, ::step, ::step] > TISSUE_HU:
        pieces, count = ndimage.label(ndimage.binary_opening(one))
        if count:
            largest = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
            rows, columns = ndimage.find_objects(pieces)[largest - 1]
            found.append((rows.start, columns.start, rows.stop, columns.stop))
    if not found:
        height, width = slices.shape[1:]
        return height / 2, width / 2, max(height * pixel[0], width * pixel[1])
    edges = np.array(found, dtype=float) * step
    low = np.quantile(edges[:, :2], FEWEST_SLICES, axis=0)
    high = np.quantile(edges[:, 2:], 1 - FEWEST_SLICES, axis=0)
    side = float(((high - low) * np.array(pixel)).max()) * MARGIN
    row, column = (low + high) / 2
    return float(row), float(column), side
