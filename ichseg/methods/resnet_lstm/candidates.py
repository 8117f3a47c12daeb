"""Pseudo-masks without supervision: the brightest cluster inside the brain, and what a map says of its pieces."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from ichseg.anatomy import intracranial_mask

CLUSTERS = 4
BLOOD_HU = (45.0, 95.0)
FEWEST_PIXELS = 10
BORDER_PIXELS, MOST_BORDER = 2, 0.5
EIGHT = np.ones((3, 3), bool)


def bright_candidates(hounsfield: np.ndarray, seed: int = 0) -> np.ndarray:
    """(H, W) HU -> bool: pieces of the brightest of four clusters of HU inside the brain that may be blood.

    Within 45 to 95 HU, opened by 3 x 3, of at least 10 pixels, and not mostly along the border of the brain.
    Calcification, choroid plexus and falx are in it as well: a map has to choose.

    Args:
        hounsfield: one slice.
        seed: of k-means.
    """
    brain = intracranial_mask(hounsfield)
    values = hounsfield[brain].astype(np.float64)
    if len(np.unique(values)) < CLUSTERS:
        return np.zeros(hounsfield.shape, bool)
    centers, member = kmeans2(values[:, None], CLUSTERS, minit="++", rng=np.random.default_rng(seed))
    bright = np.zeros(hounsfield.shape, bool)
    bright[brain] = member == int(centers[:, 0].argmax())
    bright &= (hounsfield >= BLOOD_HU[0]) & (hounsfield <= BLOOD_HU[1])
    pieces, count = ndimage.label(ndimage.binary_opening(bright, EIGHT), EIGHT)
    border = brain & ~ndimage.binary_erosion(brain, iterations=BORDER_PIXELS)
    kept = np.zeros(count + 1, bool)
    for number in range(1, count + 1):
        piece = pieces == number
        kept[number] = piece.sum() >= FEWEST_PIXELS and border[piece].mean() <= MOST_BORDER
    return kept[pieces]


def refined(
    candidates: np.ndarray, cam: np.ndarray, least_mean: float = 0.4, high: float = 0.5, least_overlap: float = 0.1
) -> np.ndarray:
    """Pieces of the candidates that the map points at: mean of at least .4, or a tenth of it above .5.

    Args:
        candidates: (H, W) bool.
        cam: (H, W) in [0, 1]; zeros where the slice is negative, which empties the mask.
        least_mean, high, least_overlap: the three numbers.
    """
    pieces, count = ndimage.label(candidates, EIGHT)
    kept = np.zeros(count + 1, bool)
    for number in range(1, count + 1):
        inside = cam[pieces == number]
        kept[number] = inside.mean() >= least_mean or (inside >= high).mean() >= least_overlap
    return kept[pieces]
