"""What a hemorrhage mask measures, as a radiologist would say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from ichseg.io.geometry import USUAL_STEP_MM

if TYPE_CHECKING:
    from ichseg.anatomy import Plane

# Columns of the tables, in this order.
MEASURES = ("volume_ml", "lesions", "largest_ml", "largest_slice", "side", "a_cm", "b_cm", "c_cm", "abc2_ml",
            "over_30_ml", "over_60_ml")  # fmt: skip
TOUCHING = np.ones((3, 3, 3), dtype=bool)  # 26-connected
# Kothari et al. 1996: a slice counts for C fully above this share of the largest area, half above the other.
FULL_SLICE, HALF_SLICE = 0.75, 0.25
ONE_SIDE = 0.9


def voxel_ml(affine: np.ndarray) -> float:
    """Volume of a voxel in mL: |det| of the (4, 4) affine in mm, which is right under gantry tilt too."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000.0


def hemorrhage_volume(mask: np.ndarray, affine: np.ndarray) -> dict[str, float | int]:
    """Volume and number of lesions of one scan.

    Args:
        mask: (X, Y, Z), anything above 0 is hemorrhage.
        affine: (4, 4) voxel-to-RAS matrix in mm.

    Returns:
        ``volume_ml`` and ``lesions`` (26-connected parts).
    """
    box, _ = _cropped(mask)
    return {"volume_ml": float(box.sum()) * voxel_ml(affine), "lesions": int(ndimage.label(box, TOUCHING)[1])}


def slice_voxel_ml(
    affine: np.ndarray, slice_axis: int, slices: int, slabs_mm: Sequence[float] | None = None
) -> np.ndarray:
    """Volume of a voxel in mL in each slice.

    Args:
        affine: (4, 4) voxel-to-RAS matrix in mm.
        slice_axis: array axis (0, 1, 2) that runs through the slices.
        slices: their number.
        slabs_mm: how much of the normal each slice stands for; None: the distance by the affine, for all.

    Raises:
        ValueError: another number of slabs than of slices.
    """
    if slabs_mm is None:
        return np.full(slices, voxel_ml(affine))
    if len(slabs_mm) != slices:
        raise ValueError(f"{len(slabs_mm)} values of slabs_mm for {slices} slices")
    return np.asarray(slabs_mm, dtype=float) * _pixel_mm2(affine, slice_axis) / 1000.0


def without_small_lesions(
    mask: np.ndarray,
    affine: np.ndarray,
    min_volume_ml: float,
    slice_axis: int = 2,
    slabs_mm: Sequence[float] | None = None,
) -> np.ndarray:
    """The mask (X, Y, Z) as bool, without 26-connected lesions of less than ``min_volume_ml`` mL.

    Args:
        mask: anything above 0 is hemorrhage. A slice on its own seldom knows how thick it is: it counts as
            ``USUAL_STEP_MM`` thick at least.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        min_volume_ml: a lesion of exactly this stays; 0 keeps all.
        slice_axis: array axis (0, 1, 2) that runs through the slices.
        slabs_mm: see :func:`slice_voxel_ml`.
    """
    kept = np.asarray(mask) > 0
    box, corner = _cropped(kept)
    if min_volume_ml > 0 and box.size:
        labels, _ = ndimage.label(box, TOUCHING)
        ml = slice_voxel_ml(affine, slice_axis, kept.shape[slice_axis], slabs_mm)
        if len(ml) == 1:
            ml *= max(1.0, USUAL_STEP_MM * _pixel_mm2(affine, slice_axis) / 1000 / ml[0])
        sizes = _sizes_ml(labels, ml[corner[slice_axis] :], slice_axis)
        # a lesion of exactly the limit stays, whatever floats make of it
        small = sizes < min_volume_ml * (1 - 1e-9)
        small[0] = True
        kept[tuple(slice(c, c + n) for c, n in zip(corner, box.shape, strict=True))] = ~small[labels]
    return kept


def without_small_holes(mask: np.ndarray, affine: np.ndarray, max_area_mm2: float, slice_axis: int = 2) -> np.ndarray:
    """The mask (X, Y, Z) as bool, its holes within a slice filled if no larger than ``max_area_mm2`` mm².

    Args:
        mask: anything above 0 is hemorrhage.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        max_area_mm2: larger holes stay: what lies within a ring along the skull is brain.
        slice_axis: array axis (0, 1, 2) that runs through the slices.
    """
    filled = np.asarray(mask) > 0
    box, corner = _cropped(filled)
    if max_area_mm2 > 0 and box.size:
        inplane = ndimage.generate_binary_structure(3, 1)  # a hole is 4-connected, and ends with its slice
        np.moveaxis(inplane, slice_axis, 0)[[0, 2]] = False
        holes, _ = ndimage.label(ndimage.binary_fill_holes(box, inplane) & ~box, inplane)
        areas = np.bincount(holes.ravel()) * _pixel_mm2(affine, slice_axis)
        small = areas <= max_area_mm2 * (1 + 1e-9)
        small[0] = False
        filled[tuple(slice(c, c + n) for c, n in zip(corner, box.shape, strict=True))] |= small[holes]
    return filled


def measure_mask(
    mask: np.ndarray,
    affine: np.ndarray,
    slice_axis: int = 2,
    midline: Plane | None = None,
    slabs_mm: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Measure the hemorrhage of one scan.

    A, B, C and ABC/2 (Kothari et al., Stroke 1996, doi 10.1161/01.STR.27.8.1304) are those of the largest lesion: A the
    longest line across it on the slice where its area is largest, B the longest line across it at right angles to A on
    that slice, C the number of its slices times their distance, where a slice of 25 to 75 % of the largest area counts
    half and a smaller one not at all.

    Args:
        mask: (X, Y, Z), anything above 0 is hemorrhage.
        affine: (4, 4) voxel-to-RAS matrix in mm; a voxel measures |det|, and slices are as far apart as their planes.
        slice_axis: array axis (0, 1, 2) that runs through the slices.
        midline: mid-sagittal plane of the head, or None if it is not known.
        slabs_mm: for slices that are not equally far apart, see :func:`slice_voxel_ml`.

    Returns:
        ``volume_ml`` of all hemorrhage, ``lesions`` (26-connected), ``over_30_ml`` and ``over_60_ml``; if there is any:
        ``largest_ml`` of the largest lesion, ``largest_slice`` (the slice with most hemorrhage, counted from 1 as
        stored), ``a_cm``, ``b_cm``, ``c_cm``, ``abc2_ml``; with a midline ``side``: ``left`` or ``right`` of the
        patient if nine tenths of the volume are there, else ``both``.
    """
    affine = np.asarray(affine, dtype=float)
    box, corner = _cropped(mask)
    slabs = slice_voxel_ml(affine, slice_axis, np.shape(mask)[slice_axis], slabs_mm)[corner[slice_axis] :]
    labels, lesions = ndimage.label(box, TOUCHING)
    sizes = _sizes_ml(labels, slabs, slice_axis)[1:]
    volume = float(sizes.sum())
    found: dict[str, Any] = {"volume_ml": round(volume, 3), "lesions": int(lesions)}
    if lesions:
        largest = np.moveaxis(labels == 1 + int(sizes.argmax()), slice_axis, -1)
        areas = np.moveaxis(box, slice_axis, -1).sum(axis=(0, 1))
        found["largest_ml"] = round(float(sizes.max()), 3)
        found["largest_slice"] = int(corner[slice_axis] + areas.argmax()) + 1
        if midline is not None:
            found["side"] = _side(box, corner, affine, midline, slabs, slice_axis)
        edges = np.delete(affine[:3, :3], slice_axis, axis=1)  # (3, 2) the two edges of a pixel
        distances = slabs[: largest.shape[2]] * 1000 / _pixel_mm2(affine, slice_axis)
        a, b, c = _diameters_mm(largest, edges, distances)
        found |= {"a_cm": round(a / 10, 2), "b_cm": round(b / 10, 2), "c_cm": round(c / 10, 2)}
        found["abc2_ml"] = round(a * b * c / 2000, 3)
    return {**found, "over_30_ml": volume > 30, "over_60_ml": volume > 60}


def _cropped(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The box around what is positive, and its first corner: most of a scan is not."""
    positive = np.asarray(mask) > 0
    order = np.argsort([-abs(step) for step in positive.strides], kind="stable")
    lying = positive.transpose(order)
    shadow = lying.any(axis=0)  # along the axis that counts slowest in memory: one pass, and the rest is small
    if not shadow.any():
        return positive[:0, :0, :0], (0, 0, 0)
    second, third = _range(shadow.any(axis=1)), _range(shadow.any(axis=0))
    ranges = [slice(0)] * 3
    for axis, found in zip(order, (_range(lying[:, second, third].any(axis=(1, 2))), second, third), strict=True):
        ranges[axis] = found
    return positive[tuple(ranges)], tuple(r.start for r in ranges)


def _range(positive: np.ndarray) -> slice:
    """From the first to the last that is positive, of some that are."""
    places = np.flatnonzero(positive)
    return slice(int(places[0]), int(places[-1]) + 1)


def _pixel_mm2(affine: np.ndarray, slice_axis: int) -> float:
    """Area of a pixel of a slice."""
    first, second = np.delete(np.asarray(affine, dtype=float)[:3, :3], slice_axis, axis=1).T
    return float(np.linalg.norm(np.cross(first, second)))


def _sizes_ml(labels: np.ndarray, ml: np.ndarray, slice_axis: int) -> np.ndarray:
    """mL of each label, background first, with the volume of a voxel in each slice."""
    if labels.size == 0:
        return np.zeros(1)
    if np.ptp(ml[: labels.shape[slice_axis]]) == 0:  # counted whole: no rounding
        return np.asarray(np.bincount(labels.ravel()) * ml[0])
    slices = np.moveaxis(labels, slice_axis, 0)
    counts = np.stack([np.bincount(one.ravel(), minlength=int(labels.max()) + 1) for one in slices])
    return np.asarray(ml[: len(slices)] @ counts)


def _diameters_mm(lesion: np.ndarray, edges: np.ndarray, distances: np.ndarray) -> tuple[float, float, float]:
    """A, B and C of one lesion (H, W, slices) in mm; ``edges`` (3, 2) are those of a pixel, ``distances`` of slices."""
    areas = lesion.sum(axis=(0, 1))
    share = areas / areas.max()
    counted = np.where(share > FULL_SLICE, 1.0, np.where(share >= HALF_SLICE, 0.5, 0.0))
    c = float((counted * distances).sum())
    # Plane coordinates in mm: the first axis along the first edge, the second at right angles to it.
    basis = np.linalg.qr(edges)[0]
    to_mm = basis.T @ edges
    pixels = np.argwhere(lesion[..., int(areas.argmax())])
    corners = np.unique((pixels[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2), axis=0) @ to_mm.T
    outline = corners[ConvexHull(corners).vertices]
    apart = np.linalg.norm(outline[:, None] - outline[None], axis=2)
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    along = (outline[second] - outline[first]) / apart[first, second]
    return float(apart.max()), _longest_across(pixels @ to_mm.T, along, to_mm), c


def _longest_across(pixels: np.ndarray, along: np.ndarray, to_mm: np.ndarray) -> float:
    """Length of the longest line at right angles to ``along`` between two pixels of a lesion, with their extent."""
    across = np.array([-along[1], along[0]])
    # The extent of one pixel in both directions: lines are as far apart as pixels are wide.
    wide, high = np.abs(along @ to_mm).sum(), np.abs(across @ to_mm).sum()
    position, height = pixels @ along, pixels @ across
    line = np.floor((position - position.min()) / wide + 1e-9).astype(int)
    top, bottom = np.full(line.max() + 1, -np.inf), np.full(line.max() + 1, np.inf)
    np.maximum.at(top, line, height)
    np.minimum.at(bottom, line, height)
    # Along a diagonal a pixel's extent is more than its share of the line; its mean width is its area over `wide`.
    return float((top - bottom).max() + min(high, abs(np.linalg.det(to_mm)) / wide))


def _side(
    box: np.ndarray, corner: tuple[int, ...], affine: np.ndarray, midline: Plane, ml: np.ndarray, slice_axis: int
) -> str:
    places = np.argwhere(box)
    on_the_left = midline.distance_mm((places + np.array(corner)) @ affine[:3, :3].T + affine[:3, 3]) < 0
    left = float(np.average(on_the_left, weights=ml[places[:, slice_axis]]))
    return "left" if left >= ONE_SIDE else "right" if left <= 1 - ONE_SIDE else "both"
