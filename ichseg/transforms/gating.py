"""What is known besides the maps: slice labels, and where the brain is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ichseg.anatomy import intracranial_mask
from ichseg.data.slices import slice_labels_in_order
from ichseg.errors import IchsegError
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, tensor_of, volume_slice_axis, windowed_hounsfield

GATES = ("prediction", "label", "both")


class GateSlicesd(MapTransform):
    """Decide which slices may contain hemorrhage: by the classifiers, by the slice labels, or only where both agree.

    Args:
        keys: probabilities (slices,) of hemorrhage, in the order of the volume; NaN where they are unknown.
        labels_key: slice labels of the datalist, in stored order; needed unless ``by`` is ``"prediction"``.
        image_key: the volume.
        by: ``"prediction"`` (the paper), ``"label"`` (1 where the label is 1), ``"both"``. By the last two, slices
            labeled 0 get -1, which no gate lets pass.
        allow_missing_keys: leave out probabilities that are not there.
    """

    backend = BACKENDS

    def __init__(
        self,
        keys: KeysCollection,
        labels_key: str = "slice_labels",
        image_key: str = "image",
        by: str = "prediction",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if by not in GATES:
            raise ValueError(f"by must be one of {', '.join(GATES)}, not '{by}'")
        self.labels_key, self.image_key, self.by = labels_key, image_key, by

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        if self.by == "prediction" or not list(self.key_iterator(item)):
            return item
        image = item[self.image_key]
        if not isinstance(image, MetaTensor):
            raise ValueError(f"key '{self.image_key}': slice labels need the scan's affine for the order of the slices")
        if self.labels_key not in item:
            raise IchsegError(f"gating by slice labels needs key '{self.labels_key}' in the datalist")
        stored = np.asarray(image.meta.get("original_affine", image.affine))
        labels = torch.as_tensor(
            slice_labels_in_order(list(item[self.labels_key]), stored, np.asarray(image.affine)).copy()
        )
        for key in self.key_iterator(item):
            probabilities = torch.as_tensor(item[key])
            passing = torch.ones_like(probabilities) if self.by == "label" else probabilities
            item[key] = torch.where(labels.to(passing.device) > 0, passing, -1)
        return item


class KeepIntracranial(Transform):
    """Empty a mask, or the image itself, outside the brain, see :func:`ichseg.anatomy.brain.intracranial_mask`.

    Args:
        level, width: the window the image was scaled with, in HU.
        enabled: False leaves everything as it is.
    """

    backend = BACKENDS

    def __init__(self, level: float = 50.0, width: float = 130.0, enabled: bool = True) -> None:
        self.level, self.width, self.enabled = level, width, enabled

    def __call__(self, mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Mask (C, X, Y, Z) and windowed scan (1, X, Y, Z) in [0, 1] -> mask; or (C, H, W) and (1, H, W)."""
        if not self.enabled:
            return tensor_of(mask)
        if image.ndim == 3 and len(image) == 1:
            inside = intracranial_mask(windowed_hounsfield(image, self.level, self.width))
            return like(plain(mask) * torch.from_numpy(inside).to(plain(mask)), mask)
        axis = volume_slice_axis(image)
        slices = np.moveaxis(windowed_hounsfield(image, self.level, self.width), axis, 0)
        kept = plain(mask).movedim(1 + axis, 0).clone()
        for number, hounsfield in enumerate(slices):
            if kept[number].any():
                kept[number] *= torch.from_numpy(intracranial_mask(hounsfield)).to(kept)
        return like(kept.movedim(0, 1 + axis), mask)


class KeepIntracraniald(DictionaryTransform, array=KeepIntracranial, companions={"image_key": "image"}):
    """Dictionary version of :class:`KeepIntracranial`; ``image_key`` holds the windowed scan."""
