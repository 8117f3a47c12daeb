"""What is bright in a head and is no hemorrhage, drawn into slices: a network that has seen it looks twice.

Where the false alarms of networks trained on implants sit: calcified choroid plexus and pineal gland, falx and
tentorium, venous sinuses, and brain beneath thick bone (beam hardening).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from ichseg.synthetic.implants.head_slices import HeadSlices, sized_head

DEEP_MM = 18.0
COARSE_MM, ANGLES = 4.0, 36


def draw_lookalikes(
    hounsfield: np.ndarray, rng: np.random.Generator, kinds: Sequence[str] | None = None
) -> np.ndarray | None:
    """Draw one to three things that look like hemorrhage and are none into a slice.

    Args:
        hounsfield: (H, W) HU; the scale is guessed from the area of the brain.
        rng: source of chance.
        kinds: of :data:`LOOKALIKES`; drawn if None.

    Returns:
        the new slice (H, W) float32 within the old one's range of HU, or None where there is too little brain.

    Raises:
        ValueError: an unknown kind.
    """
    unknown = [kind for kind in kinds or () if kind not in LOOKALIKES]
    if unknown:
        raise ValueError(f"kind '{unknown[0]}' is unknown; choose from {', '.join(LOOKALIKES)}")
    head = sized_head(hounsfield)
    if head is None:
        return None
    if kinds is None:
        kinds = rng.choice(list(LOOKALIKES), size=int(rng.integers(1, 4)), replace=False).tolist()
    image = head.hounsfield[0].copy()
    grain = image - head.smooth(0)  # the scanner's own noise stays
    for kind in kinds:
        bright, alpha = LOOKALIKES[kind](head, rng)
        alpha = ndimage.gaussian_filter(alpha.astype(np.float32), rng.uniform(0.4, 0.9) / head.pixel) * head.brain[0]
        image = image + alpha * (np.maximum(bright + grain, image) - image)
    return np.clip(image, hounsfield.min(), hounsfield.max()).astype(np.float32)


Drawn = tuple[np.ndarray | float, np.ndarray]


def _calcification(head: HeadSlices, rng: np.random.Generator) -> Drawn:
    """Small specks deep in the brain, often the same on both sides."""
    rows, columns = head.coordinates
    center, along = _midline(head)
    deep = np.argwhere(head.depth(0) > min(DEEP_MM, 0.6 * head.depth(0).max()))
    alpha = np.zeros(head.hounsfield.shape[1:], bool)
    for _ in range(int(rng.integers(1, 4))):
        at = deep[rng.integers(len(deep))] * head.pixel
        twin = center + 2 * ((at - center) @ along) * along - (at - center)
        for place in [at, twin] if rng.uniform() < 0.6 else [at]:
            long, short = rng.uniform(1.0, 4.0), rng.uniform(0.8, 2.0)
            turn = rng.uniform(0, np.pi)
            y, x = rows - place[0], columns - place[1]
            alpha |= ((np.cos(turn) * x + np.sin(turn) * y) / long) ** 2 + (
                (np.cos(turn) * y - np.sin(turn) * x) / short
            ) ** 2 < 1
    return rng.uniform(85, 250), alpha


def _falx(head: HeadSlices, rng: np.random.Generator) -> Drawn:
    """A thin line along the midline, from one end of the brain inward."""
    along_mm, across_mm, near, far = _along_and_across(head)
    wave = rng.uniform(0, 1.5) * np.sin(along_mm / rng.uniform(12, 30) + rng.uniform(0, 6))
    inward = along_mm - near if rng.uniform() < 0.5 else far - along_mm
    line = (np.abs(across_mm - wave) < rng.uniform(0.6, 1.3)) & (inward < rng.uniform(20, 70))
    return rng.uniform(48, 64), line


def _sinus(head: HeadSlices, rng: np.random.Generator) -> Drawn:
    """Blood that flows: at the end of the midline, or in a band along the inner table beside it."""
    along_mm, across_mm, near, far = _along_and_across(head)
    inward = along_mm - near if rng.uniform() < 0.5 else far - along_mm
    if rng.uniform() < 0.5:
        size = rng.uniform(7, 15)
        shape = (inward < size) & (np.abs(across_mm) < 0.55 * (size - inward) + 1)
    else:
        side = 1 if rng.uniform() < 0.5 else -1
        reach = rng.uniform(15, 45)
        shape = (
            (head.depth(0) < rng.uniform(4, 9)) & (across_mm * side > 0) & (across_mm * side < reach) & (inward < 40)
        )
    return rng.uniform(52, 72), shape & head.brain[0]


def _hardening(head: HeadSlices, rng: np.random.Generator) -> Drawn:
    """Brain that looks denser beneath thick bone, fading inward and sideways."""
    rows, columns = head.coordinates
    center = head.center(0)
    angle = np.arctan2(rows - center[0], columns - center[1]) - rng.uniform(-np.pi, np.pi)
    sector = np.exp(rng.uniform(1, 6) * (np.cos(angle) - 1))
    fade = np.exp(-head.depth(0) / rng.uniform(2, 5))
    return head.smooth(0) + rng.uniform(10, 35) * sector * fade, head.brain[0]


LOOKALIKES: dict[str, Callable[[HeadSlices, np.random.Generator], Drawn]] = {
    "calcification": _calcification,
    "falx": _falx,
    "sinus": _sinus,
    "beam hardening": _hardening,
}


def _midline(head: HeadSlices) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the brain in mm, and the unit vector along which the head mirrors best: front to back, or the reverse.

    The whole head is compared: a brain is nearly round on some slices, a face and a skull base are not.
    """
    center = np.array(head.center(0))
    step = max(1, round(COARSE_MM / head.pixel))
    coarse = ndimage.gaussian_filter(head.hounsfield[0].clip(-20, 100), step / 2)[::step, ::step]
    places = np.moveaxis(np.indices(coarse.shape), 0, -1) * step * head.pixel - center
    best, found = np.inf, np.array([1.0, 0.0])
    for angle in np.linspace(0, np.pi, ANGLES, endpoint=False):
        along = np.array([np.sin(angle), np.cos(angle)])
        mirrored = (2 * (places @ along)[..., None] * along - places + center) / (step * head.pixel)
        other = ndimage.map_coordinates(coarse, np.moveaxis(mirrored, -1, 0), order=1, cval=-20.0)
        if (asymmetry := float(np.abs(coarse - other).mean())) < best:
            best, found = asymmetry, along
    return center, found


def _along_and_across(head: HeadSlices) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(H, W) mm along the midline and across it, and where along it the brain begins and ends."""
    center, along = _midline(head)
    rows, columns = head.coordinates
    y, x = rows - center[0], columns - center[1]
    along_mm, across_mm = y * along[0] + x * along[1], y * along[1] - x * along[0]
    on_it = along_mm[head.brain[0] & (np.abs(across_mm) < 2 * head.pixel)]
    return along_mm, across_mm, float(on_it.min(initial=0)), float(on_it.max(initial=0))
