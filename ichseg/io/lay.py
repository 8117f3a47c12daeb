"""Laying voxels of one file over those of another, which may be stored with other axes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from ichseg.errors import IchsegError
from ichseg.io.geometry import same_grid, turned
from ichseg.io.volume import header_affine, read_mask

logger = logging.getLogger(__name__)


def read_mask_of(mask: str | Path, scan: str | Path) -> np.ndarray:
    """The mask (X, Y, Z) of a scan, with the scan's axes.

    Raises:
        IchsegError: the axes are turned, and the two do not fill the same space.
        ScanError: a file cannot be read.
    """
    array, affine = read_mask(mask)
    return laid_on(array, affine, header_affine(scan), mask, str(scan))


def laid_on(
    array: np.ndarray, affine: np.ndarray, wanted: np.ndarray, name: str | Path, other: str, lost: bool | None = None
) -> np.ndarray:
    """Voxels with their axes in the order and direction of another grid, or as stored where an affine is lost.

    Args:
        array: (X, Y, Z).
        affine: its voxel-to-RAS matrix.
        wanted: that of the other grid.
        name, other: what to call the two in messages.
        lost: True if ``affine`` says nothing; None: found out.

    Raises:
        IchsegError: the axes are turned, and the two do not fill the same space.
    """
    lost = has_lost(affine) if lost is None else lost
    if np.allclose(affine, wanted, atol=0.1):
        return array
    laid, laid_affine = turned(array, affine, wanted)
    if not lost and same_grid(laid.shape, laid_affine, laid.shape, wanted):
        return laid
    if lost or has_lost(wanted):
        which = name if lost else other
        logger.warning("%s has lost its affine; %s compared voxel by voxel, as stored", which, name)
        return array
    if not np.array_equal(io_orientation(affine), io_orientation(wanted)):
        raise IchsegError(f"{name}: oriented differently from {other}, and does not cover the same space")
    logger.warning("%s: affine differs from %s; compared voxel by voxel, as stored", name, other)
    return array


def has_lost(affine: np.ndarray) -> bool:
    """True for the affine of an array that was saved without that of its scan: 1 mm voxels, or axes as they come."""
    straight = np.allclose(affine[:3, :3], np.diag(np.diag(affine[:3, :3])), atol=1e-4)
    unit = np.allclose(np.abs(affine[:3, :3]), np.eye(3), atol=1e-4)
    return bool(straight and (unit or (affine[0, 0] > 0 and np.allclose(affine[:3, 3], 0, atol=1e-4))))
