"""What Python callers give: a path, a nibabel image, or an array with its affine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys

from ichseg.errors import ScanError
from ichseg.io import Volume, checked_volume, read_volume
from ichseg.io.geometry import believed_affine, usable

NAME = "the input image"
Image = str | Path | nib.Nifti1Image | np.ndarray


def given_volume(image: Image, affine: np.ndarray | None) -> Volume:
    """A scan in Hounsfield units, whatever it was given as, with the flags that its file would get.

    Raises:
        ScanError: it cannot be used.
    """
    if isinstance(image, str | Path):
        return read_volume(image)
    if isinstance(image, np.ndarray):
        return checked_volume(three_d(image, NAME), given_affine(affine), NAME)
    believed, flags = affine_of(image)
    volume = checked_volume(three_d(np.asanyarray(image.dataobj), NAME), believed, NAME)
    return replace(volume, flags=(*flags, *volume.flags))


def affine_of(image: nib.Nifti1Image) -> tuple[np.ndarray, list[str]]:
    """The affine of a nibabel image, and what is doubtful about it.

    Raises:
        TypeError: it is none.
        ScanError: it gives voxels no place.
    """
    if not hasattr(image, "dataobj"):
        raise TypeError(f"expected a path, a nibabel image or an array, not {type(image).__name__}")
    try:
        return believed_affine(header_of(image))
    except ValueError as error:
        raise ScanError(f"{NAME}: {error}") from None


def header_of(image: nib.Nifti1Image) -> nib.Nifti1Header:
    """The header of a nibabel image; of an image of another format, one that says the same."""
    if isinstance(image.header, nib.Nifti1Header):
        return image.header
    return nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).header


def three_d(array: np.ndarray, name: str) -> np.ndarray:
    """(X, Y, Z) of an array that may have further axes of length 1."""
    if array.ndim < 3 or set(array.shape[3:]) - {1} or 0 in array.shape:
        raise ScanError(f"{name}: expected one 3-D volume, found shape {array.shape}")
    return array.reshape(array.shape[:3])


def given_affine(affine: np.ndarray | None) -> np.ndarray:
    """A usable (4, 4) matrix, or a ScanError."""
    if affine is None or np.shape(affine) != (4, 4) or not usable(np.asarray(affine, dtype=float)):
        raise ScanError(f"{NAME}: an array needs its affine, an invertible (4, 4) matrix")
    return np.asarray(affine, dtype=float)


def as_tensor(volume: Volume) -> MetaTensor:
    """(X, Y, Z) with the meta data that the reading transforms give."""
    array = torch.from_numpy(np.ascontiguousarray(volume.array))
    meta = {
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(volume.array.shape),
        MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        "flags": list(volume.flags),
    }
    return MetaTensor(array, affine=torch.as_tensor(volume.affine), meta=meta)
