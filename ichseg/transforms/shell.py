"""Marks all the way around the skull are removed from a mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor

from ichseg.anatomy import shell_of
from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.volumes import affine_of, checked_mask, like, plain, volume_slice_axis, windowed_hounsfield


class RemoveShelld(SingleKeyTransform):
    """Empty a mask (1, X, Y, Z) where it is a shell along the skull, see :func:`ichseg.anatomy.shell_of`.

    How much was removed is added to the list under ``flags``.

    Args:
        keys: the mask; one key.
        image_key: the windowed scan (C, X, Y, Z) in [0, 1], of which the first channel counts, on a grid of its own.
            Without an affine nothing is done.
        level, width: the window of the scan in HU.
        enabled: False does nothing.
        allow_missing_keys: do nothing where the key is not there.

    Raises:
        ValueError: when called, for a mask without an affine.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        level: float = 50.0,
        width: float = 130.0,
        enabled: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.level, self.width, self.enabled = image_key, level, width, enabled

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item) if self.enabled else ():
            mask, image = item[key], item[self.image_key]
            values = checked_mask(plain(mask))
            if not isinstance(image, MetaTensor) or not values.any():
                continue
            affine = affine_of(mask, f"key '{key}': a distance in mm")
            where = windowed_hounsfield(image, self.level, self.width), np.asarray(image.affine, dtype=float)
            shell = shell_of(values[0].cpu().numpy(), affine, *where, volume_slice_axis(image))
            if shell.any():
                ml = shell.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
                flag = f"{ml:.1f} mL all the way around the skull removed from the mask: artifact rather than blood?"
                item["flags"] = [*item.get("flags", ()), flag]
                item[key] = like(values * torch.from_numpy(~shell)[None].to(values), mask)
        return item
