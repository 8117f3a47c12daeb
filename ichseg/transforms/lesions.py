"""Lesions of a mask: leaving out small ones, filling their holes, measuring what remains."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Transform
from scipy import ndimage

from ichseg.anatomy import mask_doubts, midline_of
from ichseg.io.geometry import SIDE_UNKNOWN
from ichseg.metrics import measure_mask, without_small_holes, without_small_lesions
from ichseg.transforms.base import BACKENDS, DictionaryTransform, SingleKeyTransform
from ichseg.transforms.volumes import (
    affine_of,
    checked_lengths,
    checked_mask,
    like,
    plain,
    remarks_of,
    slabs_of,
    tensor_of,
    volume_slice_axis,
    windowed_hounsfield,
)

MIDLINE = "midline"  # a key of the data dictionary


class RemoveSmallLesions(Transform):
    """Remove 26-connected lesions smaller than ``min_volume_ml`` mL from a mask (1, X, Y, Z).

    A slice on its own counts as 5 mm thick at least, see :func:`ichseg.metrics.without_small_lesions`.

    Args:
        min_volume_ml: a lesion of exactly this stays; 0 keeps all.
        spacing: mm per axis, for masks without an affine.

    Raises:
        ValueError: when called, for a mask without an affine if no spacing is given.
    """

    backend = BACKENDS

    def __init__(self, min_volume_ml: float = 0.0, spacing: Sequence[float] | None = None) -> None:
        if not 0 <= min_volume_ml < float("inf"):
            raise ValueError(f"min_volume_ml must be a non-negative number of mL, not {min_volume_ml}")
        self.min_volume_ml, self.spacing = min_volume_ml, checked_lengths(spacing)

    def __call__(self, mask: torch.Tensor) -> torch.Tensor:
        if not self.min_volume_ml:
            return tensor_of(mask)
        axis, values = volume_slice_axis(mask), checked_mask(plain(mask))
        affine = affine_of(mask, "a volume in mL", self.spacing)
        array = values[0].cpu().numpy()
        removed = (array != 0) & ~without_small_lesions(array, affine, self.min_volume_ml, axis, slabs_of(mask))
        if not removed.any():
            return tensor_of(mask)
        return like(values.masked_fill(torch.from_numpy(removed)[None].to(values.device), 0), mask)


class RemoveSmallLesionsd(DictionaryTransform, array=RemoveSmallLesions):
    """Dictionary version of :class:`RemoveSmallLesions`."""


class FillSmallHoles(Transform):
    """Fill holes of a mask (1, X, Y, Z) slice by slice, those of at most ``max_area_mm2`` mm²; 0 fills none.

    Args:
        max_area_mm2: larger holes stay.
        spacing: mm per axis, for masks without an affine.

    Raises:
        ValueError: when called, for a mask without an affine if no spacing is given.
    """

    backend = BACKENDS

    def __init__(self, max_area_mm2: float = 0.0, spacing: Sequence[float] | None = None) -> None:
        if not 0 <= max_area_mm2 < float("inf"):
            raise ValueError(f"max_area_mm2 must be a non-negative number of mm², not {max_area_mm2}")
        self.max_area_mm2, self.spacing = max_area_mm2, checked_lengths(spacing)

    def __call__(self, mask: torch.Tensor) -> torch.Tensor:
        if not self.max_area_mm2:
            return tensor_of(mask)
        axis, values = volume_slice_axis(mask), checked_mask(plain(mask))
        affine = affine_of(mask, "an area in mm²", self.spacing)
        array = values[0].cpu().numpy()
        marked = array > 0
        holes = without_small_holes(array, affine, self.max_area_mm2, axis) & ~marked
        if not holes.any():
            return tensor_of(mask)
        codes, filled = array[marked], array.copy(order="K")
        if (codes == codes[0]).all():
            filled[holes] = codes[0]
        else:  # a hole gets the code of what is nearest to it
            nearest = ndimage.distance_transform_edt(~marked, return_distances=False, return_indices=True)
            filled[holes] = array[tuple(nearest)][holes]
        return like(torch.from_numpy(filled)[None].to(values.device), mask)


class FillSmallHolesd(DictionaryTransform, array=FillSmallHoles):
    """Dictionary version of :class:`FillSmallHoles`."""


class MeasureHemorrhaged(SingleKeyTransform):
    """Measure a mask, see :func:`ichseg.metrics.measure_mask`; the side comes from the midline of the scan beside it.

    What makes the mask doubtful (:func:`ichseg.anatomy.mask_doubts`) is added to the list under ``flags``; the plane of
    the midline, where it is known, stands under ``midline``.

    Args:
        keys: the mask (1, X, Y, Z); one key.
        image_key: the windowed scan (C, X, Y, Z) in [0, 1], of which the first channel counts, on a grid of its
            own; its flags say whether left and right are known. Without an affine it gives no side.
        level, width: the window of the scan in HU.
        output_key: gets the dictionary of measures.
        allow_missing_keys: do nothing where the key is not there.

    Raises:
        ValueError: when called, for a mask without an affine.
    """

    backend = BACKENDS

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        level: float = 50.0,
        width: float = 130.0,
        output_key: str = "measured",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.level, self.width, self.output_key = image_key, level, width, output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            mask, image = item[key], item[self.image_key]
            axis, affine = volume_slice_axis(mask), affine_of(mask, f"key '{key}': a volume in mL")
            voxels = checked_mask(plain(mask))[0].cpu().numpy()
            plane = None
            if voxels.any() and isinstance(image, MetaTensor):
                hounsfield = windowed_hounsfield(image, self.level, self.width)
                where = hounsfield, np.asarray(image.affine, dtype=float), volume_slice_axis(image)
                plane = midline_of(*where)
                item["flags"] = [*item.get("flags", ()), *mask_doubts(voxels, affine, *where, plane)]
                item[MIDLINE] = plane
                if set(SIDE_UNKNOWN) & set(remarks_of(image)):
                    plane = item[MIDLINE] = None
            item[self.output_key] = measure_mask(voxels, affine, axis, plane, slabs_of(mask))
        return item
