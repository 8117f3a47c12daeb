"""Implant hemorrhage of known shape into real slices or scans without hemorrhage.

190 positive slices do not teach a classifier what blood looks like; healthy slices with drawn-in blood teach it
as much as one likes, from slice labels alone: the implant's label is known because we put it there. Held-out scans
with implants have exact masks where real ones are scarce.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ichseg.data.subtypes import SUBTYPES
from ichseg.synthetic.implants.head_slices import HeadSlices, sized_head
from ichseg.synthetic.implants.implant_lesions import ImplantLesion, draw_lesion

# How often each subtype is drawn.
SHARES = {"EDH": 0.2, "IPH": 0.3, "IVH": 0.12, "SAH": 0.13, "SDH": 0.25}
SMALLEST_MM2 = 12.0
LAYERS_PER_SLICE = 5


def implant_hemorrhage(
    hounsfield: np.ndarray, rng: np.random.Generator, subtype: str | None = None
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Draw one hemorrhage into a slice.

    The slice needs no spacing: its scale is guessed from the area of its brain.

    Args:
        hounsfield: (H, W) HU.
        rng: source of chance.
        subtype: EDH, IPH, IVH, SAH or SDH; drawn by :data:`SHARES` if None.

    Returns:
        the new slice (H, W) float32, its exact mask (H, W) bool, and the subtype; or None where the slice has no
        room for it (too little brain, no ventricle to fill).
    """
    head = sized_head(hounsfield)
    made = None if head is None else _implant(head, 0, rng, _drawn(rng, subtype))
    return None if made is None else (made[0][0], made[1][0], made[2])


def implant_volume(
    hounsfield: np.ndarray,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
    subtype: str | None = None,
    back: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, str] | None:
    """Draw one hemorrhage into a scan, through as many slices as it reaches.

    A voxel belongs to the mask if at least half of it, measured over thin layers, lies in the lesion: at its upper
    and lower end the lesion fades, as in any thick slice.

    Args:
        hounsfield: (slices, H, W) HU, from the skull base upward.
        spacing: mm between slices, rows and columns.
        rng: source of chance.
        subtype: as in :func:`implant_hemorrhage`.
        back: direction (rows, columns) of the patient's back, where blood settles in ventricles; None: not known, and
            ventricles fill as a whole.

    Returns:
        the new scan (slices, H, W) float32 within the old one's range of HU, its exact mask (slices, H, W) bool, and
        the subtype; or None where there is no room for it.
    """
    head = HeadSlices(hounsfield, pixel=(spacing[1] + spacing[2]) / 2, step=spacing[0], back=back)
    roomy = [int(i) for i in np.flatnonzero(head.areas > 0.5 * head.areas.max())] if head.areas.max() > 0 else []
    if not roomy:
        return None
    subtype = _drawn(rng, subtype)
    # Mostly the lateral ventricles; further down, deep fluid may be the fourth one, or a cistern.
    if subtype == "IVH" and rng.uniform() < 0.6:
        roomy = [index for index in roomy if head.upper(index)]
    return _implant(head, int(rng.choice(roomy)), rng, subtype)


def _drawn(rng: np.random.Generator, subtype: str | None) -> str:
    if subtype is None:
        return str(rng.choice(list(SHARES), p=list(SHARES.values())))
    if subtype not in SUBTYPES.values():
        raise ValueError(f"subtype '{subtype}' is unknown; choose one of {', '.join(SUBTYPES.values())}")
    return subtype


def _implant(
    head: HeadSlices, middle: int, rng: np.random.Generator, subtype: str
) -> tuple[np.ndarray, np.ndarray, str] | None:
    lesion = draw_lesion(head, middle, subtype, rng)
    if lesion is None:
        return None
    filled = {index: _filled(head, lesion, index, middle) for index in range(len(head.hounsfield))}
    mask = np.stack([share >= 0.5 for share in filled.values()])
    if mask.sum() * head.pixel**2 < SMALLEST_MM2:
        return None
    dense = rng.uniform(50, 62) if subtype == "SAH" else rng.uniform(54, 80)
    core, coarse = rng.uniform(0, 5), rng.uniform(1, 5)
    texture = head.noise(rng, 4.0)
    blur = rng.uniform(0.5, 1.1) / head.pixel
    # In a single slice, the share of the slice's thickness that is in the lesion has to be drawn.
    full = rng.uniform(0.65, 1.0) if len(filled) == 1 else 1.0
    edema = (rng.uniform(4, 12), rng.uniform(2, 7)) if subtype == "IPH" and rng.uniform() < 0.7 else None
    result = head.hounsfield.copy()
    for index, share in filled.items():
        if not share.any():
            continue
        image = result[index]
        if edema is not None:
            near = ndimage.distance_transform_edt(share < 0.5, sampling=head.pixel) <= edema[1]
            halo = ndimage.gaussian_filter(near * share.max(), 2 / head.pixel)
            image = image - edema[0] * halo * (head.depth(index) > 2)
        inner = np.minimum(ndimage.distance_transform_edt(share >= 0.5, sampling=head.pixel) / 8, 1)
        # The scanner's own noise stays, and so does a clot's uneven texture.
        blood = dense + core * inner + coarse * texture + (head.hounsfield[index] - head.smooth(index))
        alpha = full * ndimage.gaussian_filter(share.astype(np.float32), blur)
        result[index] = image + alpha * (np.maximum(blood, image) - image)
    return np.clip(result, head.hounsfield.min(), head.hounsfield.max()), mask, subtype


def _filled(head: HeadSlices, lesion: ImplantLesion, index: int, middle: int) -> np.ndarray:
    """(H, W): the share of a slice's thickness that lies in the lesion."""
    if len(head.hounsfield) == 1:
        return lesion.inside(index, 0.0).astype(np.float32)
    away = (index - middle) * head.step
    shape = head.hounsfield.shape[1:]
    if abs(away) > lesion.reach + head.step / 2 or not head.brain[index].any():
        return np.zeros(shape, np.float32)
    layers = away + head.step * ((np.arange(LAYERS_PER_SLICE) + 0.5) / LAYERS_PER_SLICE - 0.5)
    return np.stack([lesion.inside(index, float(z)) for z in layers]).mean(axis=0, dtype=np.float32)
