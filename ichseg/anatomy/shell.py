"""Marks all the way around the skull: bright brain beneath bone, not hemorrhage."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.anatomy.brain import intracranial_mask

GRID_MM = 1.5  # a coarse grid will do
RIM_MM = 10.0  # this near to the skull lies what a shell is made of
SECTORS = 72
AROUND_MM = 20.0  # slices so far below and above count as well: a shell has gaps
# Of the directions from the middle, so that both sides take part: shells reached 97 %, marks of hemorrhage 53 %.
SHELL_SHARE = 0.75
THICK_QUANTILE = 0.9
SMALLEST_BRAIN_MM2 = 3000.0
PARALLEL = 1e-9  # voxels per voxel: what rounding leaves of an axis at right angles


def shell_of(
    mask: np.ndarray, mask_affine: np.ndarray, hounsfield: np.ndarray, affine: np.ndarray, axis: int
) -> np.ndarray:
    """The part of a mask that is a shell.

    Where marks near the skull, in slices up to 20 mm below and above, cover three quarters of all directions, they are
    taken for an artifact: what lies no deeper than the shell is thick. A hemorrhage deeper in the brain is none of it.

    Args:
        mask: (X, Y, Z), anything above 0 is hemorrhage.
        mask_affine: (4, 4) voxel-to-RAS matrix of the mask in mm.
        hounsfield: the scan in HU, on a grid of its own.
        affine: of the scan.
        axis: array axis (0, 1, 2) of the scan that runs through the slices.

    Returns:
        (X, Y, Z) bool, on the mask's grid.
    """
    mask = np.asarray(mask) > 0
    shell = np.zeros(mask.shape, bool)
    if not mask.any():
        return shell
    grid, marked, brain = coarse_slices(mask, mask_affine, hounsfield, affine, axis)
    pixel = np.delete(np.linalg.norm(grid[:3, :3], axis=0), axis)
    rims = [Rim(*pair, pixel) for pair in zip(marked, brain, strict=True)]
    step = float(np.linalg.norm(grid[:3, axis]))
    around = max(1, round(AROUND_MM / step))
    zone = np.zeros(marked.shape, bool)
    for index, rim in enumerate(rims):
        thickness = np.max([one.thickness for one in rims[max(index - around, 0) : index + around + 1]], axis=0)
        if rim.near.any() and (thickness > 0).mean() >= SHELL_SHARE:
            zone[index] = rim.depth <= np.quantile(thickness[thickness > 0], THICK_QUANTILE) + GRID_MM
    if zone.any():
        # A mask may be a little larger than the brain: there the depth is 0 and the zone holds it, too.
        zone = np.moveaxis(zone, 0, axis)
        places = np.argwhere(mask)
        there = np.linalg.inv(grid) @ np.asarray(mask_affine, dtype=float)
        near = np.rint(places @ there[:3, :3].T + there[:3, 3]).astype(int)
        within = ((near >= 0) & (near < zone.shape)).all(axis=1)
        places, near = places[within], near[within]
        shell[tuple(places[zone[tuple(near.T)]].T)] = True
    return shell


class Rim:
    """What of one slice's marks lies along the skull.

    Args:
        marked, brain: (H, W) bool.
        pixel: mm per row and column.

    Attributes:
        near: (H, W) bool, the marks within 10 mm of the skull.
        depth: (H, W) mm from the skull; 0 outside brain and marks.
        thickness: (SECTORS,) mm, by direction from the middle; 0 where nothing is near the skull.
    """

    def __init__(self, marked: np.ndarray, brain: np.ndarray, pixel: np.ndarray) -> None:
        self.near, self.thickness = np.zeros(marked.shape, bool), np.zeros(SECTORS)
        self.depth = np.zeros(marked.shape)
        if not marked.any() or brain.sum() * pixel.prod() < SMALLEST_BRAIN_MM2:
            return
        whole = ndimage.binary_fill_holes(brain | marked)
        self.depth = ndimage.distance_transform_edt(whole, sampling=pixel)
        self.near = marked & (self.depth <= RIM_MM)
        rows, columns = ((np.argwhere(self.near) - ndimage.center_of_mass(whole)) * pixel).T
        sector = np.floor(np.arctan2(columns, rows) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
        deepest, shallowest = np.zeros(SECTORS), np.full(SECTORS, np.inf)
        np.maximum.at(deepest, sector, self.depth[self.near])
        np.minimum.at(shallowest, sector, self.depth[self.near])
        self.thickness = np.where(deepest > 0, deepest - shallowest + pixel.mean(), 0.0)


def coarse_slices(
    mask: np.ndarray, mask_affine: np.ndarray, hounsfield: np.ndarray, affine: np.ndarray, axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix of a coarse grid over the scan, and, slices first on that grid, the mask and the brain as bool."""
    steps = np.maximum(1, np.rint(GRID_MM / np.linalg.norm(affine[:3, :3], axis=0))).astype(int)
    steps[axis] = 1
    grid = np.asarray(affine, dtype=float) @ np.diag([*steps, 1.0])
    coarse = hounsfield[tuple(slice(None, None, step) for step in steps)]
    brain = np.stack([intracranial_mask(one) for one in np.moveaxis(coarse, axis, 0)])
    return grid, np.moveaxis(on_grid(mask, mask_affine, coarse.shape, grid), axis, 0), brain


def on_grid(mask: np.ndarray, mask_affine: np.ndarray, shape: tuple[int, ...], grid: np.ndarray) -> np.ndarray:
    """A bool mask at the nearest voxel of every place of another grid; False beyond it."""
    there = np.linalg.inv(np.asarray(mask_affine, dtype=float)) @ grid
    axes = np.ix_(*map(np.arange, shape))
    inside, places = np.ones((1, 1, 1), bool), []
    for row, n in zip(there[:3], mask.shape, strict=True):
        # Grids that are not turned against each other: an index depends on one axis, and stays as small as it.
        terms = [step * axis for step, axis in zip(row[:3], axes, strict=True) if abs(step) > PARALLEL]
        place = np.rint(sum(terms) + row[3]).astype(int)
        inside = inside & (place >= 0) & (place < n)
        places.append(place.clip(0, n - 1))
    return inside & mask[tuple(places)]
