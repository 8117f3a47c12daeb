"""What Python callers give: a path, an image of nibabel, SimpleITK or MONAI, or an array with its affine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys

from ichseg.errors import ScanError
from ichseg.io import Volume, checked_volume, read_volume
from ichseg.io.geometry import LOST, believed_affine, is_unit, usable
from ichseg.io.volume import NAMELESS
from ichseg.transforms.volumes import in_ras, joined_remarks

# A SimpleITK image is one too; the package is imported only where one is given.
Image = str | Path | nib.Nifti1Image | np.ndarray | torch.Tensor
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def given_volume(image: Image, affine: np.ndarray | None) -> Volume:
    """A scan in Hounsfield units, whatever it was given as, with the flags that its file would get.

    Raises:
        ScanError: it cannot be used.
    """
    if isinstance(image, str | Path):
        return read_volume(image)
    if is_array(image):
        array, affine = given_array(image, affine)
        volume = checked_volume(three_d(array, NAMELESS), given_affine(affine), NAMELESS)
        return replace(volume, flags=(LOST, *volume.flags)) if is_unit(volume.affine) else volume
    scan = cast("nib.Nifti1Image", image)
    believed, flags = affine_of(scan)
    volume = checked_volume(three_d(np.asanyarray(scan.dataobj), NAMELESS), believed, NAMELESS)
    return replace(volume, flags=(*flags, *volume.flags))


def given_array(image: Any, affine: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels and affine of an array, a tensor or a SimpleITK image; what says where it lies needs no ``affine``."""
    if is_sitk(image):
        return from_sitk(image)
    if isinstance(image, torch.Tensor):
        image = in_ras(image)
        affine = np.asarray(image.affine) if isinstance(image, MetaTensor) and affine is None else affine
        tensor = image.detach().cpu()
        image = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    # With MONAI's channel axis, unless it is a volume of one row.
    return (image[0] if image.ndim == 4 and len(image) == 1 and image.shape[3] > 1 else image), affine


def is_array(image: Any) -> bool:
    """True for an array, a tensor or an image of SimpleITK; False for a file or an image of nibabel."""
    return isinstance(image, np.ndarray | torch.Tensor) or is_sitk(image)


def needs_affine(image: Any) -> bool:
    """True for what does not say where it lies: arrays, and tensors without meta data."""
    return isinstance(image, np.ndarray | torch.Tensor) and not isinstance(image, MetaTensor)


def is_sitk(image: Any) -> bool:
    """True for an image of SimpleITK."""
    return type(image).__module__.split(".")[0] == "SimpleITK"


def from_sitk(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) of a SimpleITK image and its voxel-to-RAS matrix.

    Raises:
        ScanError: it is not one volume of numbers.
    """
    import SimpleITK

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"{NAMELESS}: expected one 3-D volume, found {image.GetDimension()} axes and "
                        f"{image.GetNumberOfComponentsPerPixel()} values per voxel")  # fmt: skip
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, LPS_TO_RAS @ affine


def sitk_like(mask: np.ndarray, image: Any) -> Any:
    """Voxels (X, Y, Z) as a SimpleITK image in the place of another."""
    import SimpleITK

    made = SimpleITK.GetImageFromArray(np.ascontiguousarray(mask.T))
    made.CopyInformation(image)
    return made


def affine_of(image: nib.Nifti1Image) -> tuple[np.ndarray, list[str]]:
    """The affine of a nibabel image, and what is doubtful about it.

    Raises:
        TypeError: it is none.
        ScanError: it gives voxels no place.
    """
    if not hasattr(image, "dataobj"):
        raise TypeError(
            f"expected a path, a nibabel image or an array, not {type(image).__name__} (a SimpleITK image or a tensor "
            "will do too)"
        )
    try:
        return believed_affine(header_of(image))
    except ValueError as error:
        raise ScanError(f"{NAMELESS}: {error}") from None


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
        raise ScanError(f"{NAMELESS}: an array needs its affine, an invertible (4, 4) matrix")
    return np.asarray(affine, dtype=float)


def as_tensor(volume: Volume) -> MetaTensor:
    """(X, Y, Z) with the meta data that the reading transforms give."""
    array = torch.from_numpy(np.ascontiguousarray(volume.array))
    meta = {
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(volume.array.shape),
        MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        "flags": joined_remarks(volume.flags),
    }
    return MetaTensor(array, affine=torch.as_tensor(volume.affine), meta=meta)
