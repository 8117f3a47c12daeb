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
from ichseg.synthetic.implants.implant_looks import ImplantLook, draw_look

# How often each subtype is drawn.
SHARES = {"EDH": 0.2, "IPH": 0.28, "IVH": 0.14, "SAH": 0.14, "SDH": 0.24}
# In slices with so much brain, compared to the widest one: near the vertex there is no ventricle.
LEAST_ROOM, MOST_ROOM = {"EDH": 0.15, "SDH": 0.15, "IPH": 0.25, "SAH": 0.25}, 0.5
SMALLEST_MM2 = 12.0
LAYERS_PER_SLICE = 5
LEAST_PUSHING_MM, MOST_PUSHED_MM, REACH_MM = 3.0, 8.0, 12.0  # mass effect


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
    kept: np.ndarray | None = None,
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
        kept: (slices, H, W) bool: voxels that do not give way, such as those of an earlier implant.

    Returns:
        the new scan (slices, H, W) float32 within the old one's range of HU, its exact mask (slices, H, W) bool, and
        the subtype; or None where there is no room for it.
    """
    head = HeadSlices(hounsfield, pixel=(spacing[1] + spacing[2]) / 2, step=spacing[0], back=back, kept=kept)
    subtype = _drawn(rng, subtype)
    least = LEAST_ROOM.get(subtype, MOST_ROOM) * head.areas.max()
    roomy = [int(i) for i in np.flatnonzero(head.areas > max(least, 0))]
    if not roomy:
        return None
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
    look = draw_look(subtype, lesion.faint, rng)
    texture = head.noise(rng, rng.uniform(3.0, 9.0))
    # In a single slice, the share of the slice's thickness that is in the lesion has to be drawn.
    full = rng.uniform(0.65, 1.0) if len(filled) == 1 else 1.0
    level = rng.uniform(-8, 8)
    result = head.hounsfield.copy()
    for index, share in filled.items():
        if share.any():
            result[index] = _painted(head, index, share, look, texture, full, level)
    return np.clip(result, head.hounsfield.min(), head.hounsfield.max()), mask, subtype


def _painted(
    head: HeadSlices, index: int, share: np.ndarray, look: ImplantLook, texture: np.ndarray, full: float, level: float
) -> np.ndarray:
    """(H, W) HU of a slice with the part of a lesion that lies in it."""
    image, inside = head.hounsfield[index], share >= 0.5
    depth = ndimage.distance_transform_edt(inside, sampling=head.pixel) if inside.any() else np.zeros(share.shape)
    if look.push and depth.max() > LEAST_PUSHING_MM:
        image = _pushed(head, index, image, inside, look.push * float(depth.max()))
    if look.edema is not None:
        near = ndimage.distance_transform_edt(~inside, sampling=head.pixel) <= look.edema[1]
        halo = ndimage.gaussian_filter(near * share.max(), 2 / head.pixel)
        image = image - look.edema[0] * halo * (head.depth(index) > 2)
    # The scanner's own noise stays, and so does a clot's uneven texture.
    own = look.core * np.minimum(depth / 8, 1) + look.coarse * texture
    alpha = full * ndimage.gaussian_filter(share.astype(np.float32), look.blur / head.pixel)
    if look.relative:
        return image + alpha * np.maximum(look.density + own, 0)
    dense: np.ndarray | float = look.density
    if look.lower is not None and head.back is not None and inside.any():
        rows, columns = head.coordinates
        behind = rows * head.back[0] + columns * head.back[1]
        settled = behind - float(np.median(behind[inside])) - level
        dense = np.where(settled > 0, look.lower, look.density)
    blood = dense + own + (head.hounsfield[index] - head.smooth(index))
    return image + alpha * ((blood if look.darkens else np.maximum(blood, image)) - image)


def _pushed(head: HeadSlices, index: int, image: np.ndarray, inside: np.ndarray, far: float) -> np.ndarray:
    """(H, W): brain next to a lesion gives way by up to ``far`` mm, less with the distance; bone stays."""
    away, place = ndimage.distance_transform_edt(~inside, sampling=head.pixel, return_indices=True)
    rows, columns = np.indices(image.shape)
    toward = np.stack([place[0] - rows, place[1] - columns]) * head.pixel / np.maximum(away, 1e-6)
    shift = min(far, MOST_PUSHED_MM) * np.exp(-away / REACH_MM) * ~inside / head.pixel
    shift = ndimage.gaussian_filter(shift, 1.0)
    source = np.stack([rows + toward[0] * shift, columns + toward[1] * shift])
    moved = ndimage.map_coordinates(image, source, order=1, mode="nearest")
    yielding = head.yielding(index)
    from_there = ndimage.map_coordinates(yielding.astype(np.float32), source, order=1) > 0.99
    return np.where(yielding & from_there & ~inside, moved, image)


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
