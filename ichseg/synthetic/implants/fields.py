"""A second family of implants, for measuring only: blots of a random field, not shapes anyone drew.

A network that was trained on the shapes of :mod:`ichseg.synthetic.implants.implant_lesions` may know those shapes; it
has never seen these. Here a lesion is where a smooth random field is high around a point, cut off by skull and brain,
feathered where the field is flat; its density, its sediment and its grain are drawn in another way as well.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.synthetic.implants.head_slices import HeadSlices

SMALLEST_MM3, LARGEST_MM3 = 150.0, 60000.0
OUTER_SHARE, OUTER_MM, INNER_MM = 0.5, 2.5, 8.0


def field_volume(
    hounsfield: np.ndarray, spacing: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Draw one blot into a scan.

    Args:
        hounsfield: (slices, H, W) HU, from the skull base upward.
        spacing: mm between slices, rows and columns.
        rng: source of chance.

    Returns:
        the new scan (slices, H, W) float32 within the old one's range of HU, its exact mask (slices, H, W) bool, and
        ``"EDH"`` for a blot at the skull, ``"IPH"`` for one inside; or None where there is no room for it.
    """
    head = HeadSlices(hounsfield, pixel=(spacing[1] + spacing[2]) / 2, step=spacing[0])
    if not head.areas.max():
        return None
    roomy = np.flatnonzero(head.areas > 0.3 * head.areas.max())
    middle = int(rng.choice(roomy))
    outer = bool(rng.uniform() < OUTER_SHARE)
    depth = head.depth(middle)
    rows, columns = np.nonzero((depth > 0) & (depth < OUTER_MM) if outer else depth > INNER_MM)
    if not len(rows):
        return None
    at = int(rng.integers(len(rows)))
    radius = float(np.exp(rng.uniform(np.log(5), np.log(24))))
    share = _share(head, (middle, int(rows[at]), int(columns[at])), radius, rng)
    mask = share >= 0.5
    if not SMALLEST_MM3 < mask.sum() * head.pixel**2 * head.step < LARGEST_MM3:
        return None
    result = _painted(head, share, rng)
    return np.clip(result, head.hounsfield.min(), head.hounsfield.max()), mask, "EDH" if outer else "IPH"


def _share(head: HeadSlices, place: tuple[int, int, int], radius: float, rng: np.random.Generator) -> np.ndarray:
    """(slices, H, W) in [0, 1]: how much of a voxel is blood; 0 away from the piece around ``place``."""
    spacing = np.array([head.step, head.pixel, head.pixel])
    shape = head.hounsfield.shape
    away = [(np.arange(n) - p) * s for n, p, s in zip(shape, place, spacing, strict=True)]
    grids = np.meshgrid(*away, indexing="ij", sparse=True)
    stretch = np.exp(rng.normal(0, 0.35, 3))
    distance = np.sqrt(sum((grid / (radius * f)) ** 2 for grid, f in zip(grids, stretch, strict=True)))
    rough = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(2.5, 7) / spacing)
    height = 1 - distance + rng.uniform(0.3, 0.8) * rough / max(float(rough.std()), 1e-6) * np.exp(-(distance**2))
    share = np.clip(height / rng.uniform(0.08, 0.3) + 0.5, 0, 1) * head.brain * (distance < 2.5)
    pieces, _ = ndimage.label(share >= 0.5)
    own = pieces[place]
    if not own:
        return np.zeros(share.shape, np.float32)
    near = ndimage.binary_dilation(pieces == own, iterations=2)
    return (share * near).astype(np.float32)


def _painted(head: HeadSlices, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The scan with the blot: grain of its own instead of the scanner's carried over, and perhaps a sediment."""
    spacing = np.array([head.step, head.pixel, head.pixel])
    grain = ndimage.gaussian_filter(rng.normal(size=share.shape), (0, 0.6, 0.6))
    clots = ndimage.gaussian_filter(rng.normal(size=share.shape), 5 / spacing)
    blood = rng.uniform(50, 76) + rng.uniform(2, 5) * grain / grain.std() + rng.uniform(0, 5) * clots / clots.std()
    if rng.uniform() < 0.3:
        slope = np.linspace(-1, 1, share.shape[2])
        blood = blood + rng.uniform(-6, 6) * slope
    soft = np.stack([ndimage.gaussian_filter(one, rng.uniform(0.4, 0.9) / head.pixel) for one in share])
    return head.hounsfield + soft * (np.maximum(blood, head.hounsfield) - head.hounsfield)
