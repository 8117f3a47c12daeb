"""Masks that lie elsewhere than their scans are refused before anything learns from them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from ichseg.errors import IchsegError
from ichseg.io import same_grid
from ichseg.transforms.base import BACKENDS


class CheckSameGridd(MapTransform):
    """Masks have as many voxels as their scan, each in its place (to half a voxel).

    Args:
        keys: masks, MetaTensors (C, X, Y, Z).
        reference: key of the scan.
        allow_missing_keys: leave out masks that are not there.

    Raises:
        IchsegError: names the mask, and says what differs.
    """

    backend = BACKENDS

    def __init__(self, keys: KeysCollection, reference: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference = reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            scan: MetaTensor = data[self.reference]
            mask: MetaTensor = data[key]
            shape, wanted = tuple(mask.shape[1:]), tuple(scan.shape[1:])
            if not same_grid(shape, np.asarray(mask.affine), wanted, np.asarray(scan.affine)):
                what = "its affine differs" if shape == wanted else f"{_size(shape)} voxels, not {_size(wanted)}"
                names = [one.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "") for one in (mask, scan)]
                raise IchsegError(f"{names[0] or key}: not on the grid of {names[1] or self.reference} ({what})")
        return dict(data)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
