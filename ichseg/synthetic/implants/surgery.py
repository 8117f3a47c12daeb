"""What surgery leaves next to a hemorrhage: an opened skull, air, a drain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichseg.anatomy.brain import BONE
from ichseg.synthetic.implants.head_slices import HeadSlices

# Chance of each; one of them at least is drawn.
CRANIOTOMY, AIR, DRAIN = 0.6, 0.5, 0.4
FLAP = 0.6  # of craniotomies: the bone is back in place, with a gap around it
LEAST_BRAIN = 0.2  # of the largest slice's brain
SKULL_MM = 16.0  # what is bone within so much of the brain
BUBBLES, BUBBLE_MM = (1, 5), (0.8, 3.0)
BLUR_MM = 0.6
AIR_HU = -1000.0


@dataclass(frozen=True)
class _Site:
    """Where it was: a slice, a direction from the middle of the brain, and how far it reaches."""

    middle: int
    angle: float
    half: float  # radians
    reach: float  # mm above and below


def draw_surgery(
    hounsfield: np.ndarray,
    mask: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    back: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the traces of an operation into a scan, beside its hemorrhage.

    Args:
        hounsfield: (slices, H, W) HU, from the skull base upward, with the hemorrhage.
        mask: (slices, H, W) bool, the hemorrhage; all False: the place is drawn.
        spacing: mm between slices, rows and columns.
        rng: source of chance.
        back: direction (rows, columns) of the patient's back: air rises.

    Returns:
        the new scan (slices, H, W) float32 within the old one's range of HU, and its mask, without what is air or a
        drain now; both unchanged where there is too little brain.
    """
    head = HeadSlices(hounsfield, pixel=(spacing[1] + spacing[2]) / 2, step=spacing[0], back=back)
    roomy = np.flatnonzero((head.areas > LEAST_BRAIN * head.areas.max()) & (head.areas > 0))
    if not len(roomy):
        return hounsfield, mask
    site = _site(head, mask, roomy, rng)
    image, gone = head.hounsfield.copy(), np.zeros(mask.shape, bool)
    wanted = rng.uniform(size=3) < (CRANIOTOMY, AIR, DRAIN)
    if not wanted.any():
        wanted[rng.integers(3)] = True
    if wanted[0]:
        _craniotomy(head, site, image, rng)
    if wanted[1]:
        _air(head, site, image, gone, rng)
    if wanted[2]:
        _drain(head, site, image, gone, rng)
    return np.clip(image, hounsfield.min(), hounsfield.max()).astype(np.float32), mask & ~gone


def _site(head: HeadSlices, mask: np.ndarray, roomy: np.ndarray, rng: np.random.Generator) -> _Site:
    """Above the hemorrhage, if there is one."""
    half, reach = rng.uniform(0.25, 0.7), rng.uniform(15, 40)
    sizes = mask.sum(axis=(1, 2)) * (head.areas > 0)
    if not sizes.any():
        return _Site(int(rng.choice(roomy)), rng.uniform(-np.pi, np.pi), half, reach)
    middle = int(sizes.argmax())
    row, column = np.array(ndimage.center_of_mass(mask[middle])) * head.pixel - head.center(middle)
    return _Site(middle, float(np.arctan2(row, column)) + rng.normal(0, 0.15), half, reach)


def _off(head: HeadSlices, site: _Site, index: int) -> np.ndarray:
    """(H, W): 0 in the direction of the site, 1 at its border in this slice, more beyond."""
    center = head.center(index)
    rows, columns = head.coordinates
    angle = np.arctan2(rows - center[0], columns - center[1]) - site.angle
    return np.abs((angle + np.pi) % (2 * np.pi) - np.pi) / max(_half(head, site, index), 1e-6)


def _half(head: HeadSlices, site: _Site, index: int) -> float:
    """Half the angle of the site in this slice, in radians."""
    return float(site.half * np.sqrt(max(1 - ((index - site.middle) * head.step / site.reach) ** 2, 0)))


def _slices(head: HeadSlices, site: _Site) -> list[int]:
    away = np.abs(np.arange(len(head.hounsfield)) - site.middle) * head.step
    return [int(i) for i in np.flatnonzero((away < site.reach) & (head.areas > 0))]


def _craniotomy(head: HeadSlices, site: _Site, image: np.ndarray, rng: np.random.Generator) -> None:
    """Bone with a gap around it, or none; the scalp above is swollen."""
    flap, gap = rng.uniform() < FLAP, rng.uniform(1.5, 3.5)
    soft, swelling = rng.uniform(20, 45), rng.uniform(2, 10)
    scalp = rng.uniform(25, 60)
    texture = 4 * head.noise(rng, 4.0)
    for index in _slices(head, site):
        off, one = _off(head, site, index), image[index]
        outside = ndimage.distance_transform_edt(~head.brain[index], sampling=head.pixel)
        bone = (one > BONE) & (outside > 0) & (outside < SKULL_MM)
        radius = np.hypot(*(line - at for line, at in zip(head.coordinates, head.center(index), strict=True)))
        opened = bone & (off < 1)
        if flap:
            opened &= (1 - off) * _half(head, site, index) * radius < gap
        alpha = ndimage.gaussian_filter(opened.astype(np.float32), BLUR_MM / head.pixel)
        one += alpha * (soft + texture - one)
        low = float(head.hounsfield[index].min())  # air, also where a scan was clipped
        inside = ndimage.binary_fill_holes(head.hounsfield[index] > max(-200.0, low))
        above = ndimage.distance_transform_edt(~inside, sampling=head.pixel)
        swollen = (above > 0) & (above < swelling * np.sqrt(np.clip(1 - off**2, 0, None)))
        one[swollen] = (scalp + texture)[swollen]


def _air(head: HeadSlices, site: _Site, image: np.ndarray, gone: np.ndarray, rng: np.random.Generator) -> None:
    """A pocket beneath the foremost part of the skull, and bubbles beside the hemorrhage."""
    rows, columns = head.coordinates
    front = -(rows * head.back[0] + columns * head.back[1]) if head.back else -columns
    high, bubbles = rng.uniform(0, 9) * (rng.uniform() < 0.6), int(rng.integers(*BUBBLES))
    for index in _slices(head, site):
        brain = head.brain[index]
        air = brain & (front > front[brain].max() - high)
        near = np.argwhere(brain & (_off(head, site, index) < 1) & (head.depth(index) < 25))
        for _ in range(bubbles if len(near) else 0):
            row, column = near[rng.integers(len(near))] * head.pixel
            air |= brain & (np.hypot(rows - row, columns - column) < rng.uniform(*BUBBLE_MM))
        alpha = ndimage.gaussian_filter(air.astype(np.float32), BLUR_MM / head.pixel)
        image[index] += alpha * (AIR_HU - image[index])
        gone[index] |= alpha > 0.1


def _drain(head: HeadSlices, site: _Site, image: np.ndarray, gone: np.ndarray, rng: np.random.Generator) -> None:
    """A bright tube from the skull to the middle of the brain, through a few slices."""
    center = np.array(head.center(site.middle))
    far = float(head.depth(site.middle).max()) * 1.3 + 10
    entry = center + far * np.array([np.sin(site.angle), np.cos(site.angle)])
    target = center + rng.normal(0, 8, 2)
    brain = np.flatnonzero(head.areas > 0)
    lowest, highest = ((int(end) - site.middle) * head.step for end in (brain[0], brain[-1]))
    rise = float(np.clip(rng.uniform(-20, 45), lowest, highest)) or 1.0  # it ends within the scan
    radius, bright = rng.uniform(0.9, 1.7), rng.uniform(90, 400)
    rows, columns = head.coordinates
    for index in range(len(head.hounsfield)):
        # The part of the tube within this slice, from the target (0) to the entry (1).
        low, high = (((index + side / 2 - site.middle) * head.step) / rise for side in (-1, 1))
        low, high = max(min(low, high), 0.0), min(max(low, high), 1.0)
        if low >= high or not head.brain[index].any():
            continue
        start, along = target + low * (entry - target), (high - low) * (entry - target)
        share = ((rows - start[0]) * along[0] + (columns - start[1]) * along[1]) / max(float(along @ along), 1e-6)
        share = share.clip(0, 1)
        away = np.hypot(rows - start[0] - share * along[0], columns - start[1] - share * along[1])
        alpha = ndimage.gaussian_filter((away < radius).astype(np.float32), BLUR_MM / head.pixel)
        image[index] += alpha * np.maximum(bright - image[index], 0)
        gone[index] |= alpha > 0.3
