"""Segmenting and measuring from Python: images, arrays or files in, the same out."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged
from monai.utils.enums import MetaKeys, SpaceKeys

from ichseg.errors import IchsegError, ScanError, chain
from ichseg.io import (
    Volume,
    checked_volume,
    image_like,
    read_header,
    read_mask,
    read_volume,
    save_image,
    slice_axis,
    write_like,
)
from ichseg.io.geometry import NO_ORIENTATION, believed_affine, usable
from ichseg.launch import check_numbers, settings_beside
from ichseg.metrics import measure_mask
from ichseg.resources import bundle_folder
from ichseg.transforms.foreground import HemorrhageMaskd
from ichseg.transforms.measuring import MeasureHemorrhaged, midline_of

BESIDE = (SaveImaged, MeasureHemorrhaged)  # steps that do not change the mask
NAME = "the image given"
Image = str | Path | nib.Nifti1Image | np.ndarray


class Segmenter:
    """The model of the bundle ``ich_segmentation``, loaded once, for any number of scans.

    Runs the steps of the bundle's ``inference.yaml``, so that masks are those of ``ichseg segment``.

    Args:
        weights: a weight file; None: the model shipped with ichseg.
        threshold: on the probability of hemorrhage, strict.
        min_volume_ml: smaller lesions are left out, mL.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        **settings: any other value of the config, such as ``precision="bf16"`` or ``size=256``.

    Raises:
        IchsegError: weights or device are not there, or a setting is unknown.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        threshold: float = 0.5,
        min_volume_ml: float = 0.0,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        root = bundle_folder("ich_segmentation")
        content = yaml.safe_load((root / "configs" / "inference.yaml").read_text(encoding="utf-8"))
        unknown = sorted(set(settings) - set(content))
        if unknown:
            raise TypeError(f"'{unknown[0]}' is not a value of {root / 'configs' / 'inference.yaml'}")
        given = {"threshold": threshold, "min_volume_ml": min_volume_ml, "device_name": device, **settings}
        if weights is not None:
            given = {"weights": str(weights), **settings_beside(str(weights)), **given}
        check_numbers(given)
        parser = ConfigParser({**content, "bundle_root": str(root), **given})
        try:
            self.device = parser.get_parsed_content("device")
            self.network = parser.get_parsed_content("network").eval()
            self.inferer = parser.get_parsed_content("inferer")
            before, after = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")
        except RuntimeError as error:  # MONAI's, around ours
            ours = [link for link in chain(error) if isinstance(link, IchsegError)]
            raise (ours[0] if ours else error) from None
        self.before = Compose(before.transforms[1:])  # the first one reads a file
        self.after = [step for step in after.transforms if not isinstance(step, BESIDE)]

    def __call__(self, image: Image, affine: np.ndarray | None = None, probabilities: bool = False) -> np.ndarray:
        """Mask, or probabilities, of one scan on its own grid.

        Args:
            image, affine: as of :func:`segment`.
            probabilities: give the probability of hemorrhage instead of the mask.

        Returns:
            (X, Y, Z) uint8, or float32 for probabilities.

        Raises:
            ScanError: the scan cannot be used.
        """
        volume = _volume(image, affine)
        item: dict[str, Any] = self.before({"image": _tensor(volume)})
        with torch.no_grad():
            item["pred"] = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
            for step in self.after:
                if probabilities and isinstance(step, HemorrhageMaskd):
                    break
                item = step(item)
        return np.ascontiguousarray(item["pred"][0].numpy().astype(np.float32 if probabilities else np.uint8))


def segment(
    image: Image,
    affine: np.ndarray | None = None,
    output: str | Path | None = None,
    probabilities: bool = False,
    **options: Any,
) -> nib.Nifti1Image | np.ndarray | Path:
    """Outline hemorrhage in one head CT.

        mask = ichseg.segment("scan.nii.gz")                        # nibabel image
        mask = ichseg.segment(nib.load("scan.nii.gz"))              # nibabel image
        mask = ichseg.segment(array, affine)                        # array
        path = ichseg.segment("scan.nii.gz", output="mask.nii.gz")  # the path written

    Args:
        image: a NIfTI file, a nibabel image, or an array (X, Y, Z) in Hounsfield units; 4-D with one volume will do.
        affine: (4, 4) voxel-to-RAS matrix in mm; for arrays, which need one.
        output: a file to write the mask to, with the geometry of the scan; for files and nibabel images.
        probabilities: give probabilities (float32) instead of the mask (uint8).
        **options: of :class:`Segmenter`; the model of the last call is kept.

    Returns:
        the mask in the shape and geometry of the scan: a nibabel image for files and images, an array for arrays, the
        path if ``output`` is given.

    Raises:
        ScanError: the scan cannot be used; one line that says why.
        IchsegError: weights or device are not there.
    """
    if output is not None and isinstance(image, np.ndarray):
        raise ValueError("output goes with a file or a nibabel image; an array has no header to write")
    mask = _segmenter(tuple(sorted(options.items())))(image, affine, probabilities)
    if isinstance(image, np.ndarray):
        return mask.reshape(image.shape)
    if isinstance(image, str | Path):
        if output is not None:
            write_like(output, mask, image)
            return Path(output)
        return image_like(mask, read_header(Path(image)), image)
    found = image_like(mask, _header(image), NAME)
    if output is not None:
        save_image(output, found)
        return Path(output)
    return found


def measure(mask: Image, affine: np.ndarray | None = None, image: Image | None = None) -> dict[str, Any]:
    """Volume, lesions, side and ABC/2 of one mask, see :func:`ichseg.metrics.measure_mask`.

    Args:
        mask: a NIfTI file, a nibabel image, or an array (X, Y, Z); anything above 0 is hemorrhage.
        affine: (4, 4) voxel-to-RAS matrix in mm, for arrays.
        image: the scan, for the side: a file, a nibabel image or an array on the grid of the mask.

    Raises:
        ScanError: a file cannot be used.
    """
    if isinstance(mask, str | Path):
        array, affine = read_mask(mask)
    elif isinstance(mask, np.ndarray):
        array, affine = _three(mask, NAME), _given(affine)
    else:
        array, affine = _three(np.asanyarray(mask.dataobj), NAME), np.asarray(mask.affine)
    plane = None
    if image is not None:
        volume = _volume(image, affine if isinstance(image, np.ndarray) else None)
        if NO_ORIENTATION not in volume.flags:
            plane = midline_of(volume.array, volume.affine, slice_axis(volume.affine))
    return measure_mask(array, affine, slice_axis(affine), plane)


@lru_cache(maxsize=1)
def _segmenter(options: tuple[tuple[str, Any], ...]) -> Segmenter:
    return Segmenter(**dict(options))


def _volume(image: Image, affine: np.ndarray | None) -> Volume:
    if isinstance(image, str | Path):
        return read_volume(image)
    if isinstance(image, np.ndarray):
        return checked_volume(_three(image, NAME), _given(affine), NAME)
    if not hasattr(image, "dataobj"):
        raise TypeError(f"expected a path, a nibabel image or an array, not {type(image).__name__}")
    volume = checked_volume(_three(np.asanyarray(image.dataobj), NAME), np.asarray(image.affine, dtype=float), NAME)
    try:
        flags = believed_affine(_header(image))[1]
    except ValueError as error:
        raise ScanError(f"{NAME}: {error}") from None
    return Volume(volume.array, volume.affine, volume.path, (*flags, *volume.flags))


def _header(image: nib.Nifti1Image) -> nib.Nifti1Header:
    if isinstance(image.header, nib.Nifti1Header):
        return image.header
    return nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).header


def _three(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim < 3 or set(array.shape[3:]) - {1} or 0 in array.shape:
        raise ScanError(f"{name}: expected one 3-D volume, found shape {array.shape}")
    return array.reshape(array.shape[:3])


def _given(affine: np.ndarray | None) -> np.ndarray:
    if affine is None or np.shape(affine) != (4, 4) or not usable(np.asarray(affine, dtype=float)):
        raise ScanError(f"{NAME}: an array needs its affine, a (4, 4) matrix that gives every voxel a place")
    return np.asarray(affine, dtype=float)


def _tensor(volume: Volume) -> MetaTensor:
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
