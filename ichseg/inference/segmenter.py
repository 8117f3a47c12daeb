"""Segmenting from Python: images, arrays or files in, the same out."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, SaveImaged

from ichseg.bundle import BundleParts, config_file, config_values, weight_file
from ichseg.errors import IchsegError
from ichseg.inference.images import Image, as_tensor, given_volume, header_of, is_sitk, sitk_like
from ichseg.io import image_like, read_header, save_image, write_like
from ichseg.io.nifti import is_nifti
from ichseg.io.volume import NAMELESS
from ichseg.networks import segmenter_settings
from ichseg.overrides import check_numbers, check_value
from ichseg.transforms.mask import HemorrhageMaskd
from ichseg.transforms.volumes import like

BUNDLE = "ich_segmentation"
# Keys of its config that say what is read and written; here that is up to the caller.
OF_A_FOLDER = ("dataset_dir", "output_dir", "data_root_dir", "dataset", "evaluator", "parquet", "report", "overwrite",
               "save_probabilities", "shard", "size_limit_gib", "dicom_objects", "series")  # fmt: skip


class Segmenter:
    """The model of the bundle ``ich_segmentation``, loaded once, for any number of scans.

    Runs the steps of the bundle's config, so that masks are those of ``ichseg segment``.

    Args:
        weights: a weight file; None: the model shipped with ichseg.
        threshold: on the probability of hemorrhage, strict; None: as fitted with the weights.
        min_volume_ml: smaller lesions are left out, mL; None: as the weights were made for.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        **settings: any other value of the config, such as ``precision="bf16"`` or ``size=256``.

    Raises:
        IchsegError: the weights or the device are missing, or a value is invalid.
        TypeError: a setting is unknown, or for runs over a folder only.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        threshold: float | None = None,
        min_volume_ml: float | None = None,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        weights = weight_file(weights)
        config = segmenter_settings(weights).pipeline
        known = config_values(BUNDLE, config)
        if unknown := sorted(set(settings) - set(known)):
            raise TypeError(f"'{unknown[0]}' is not a key of {config_file(BUNDLE, config)}")
        if of_a_folder := sorted(set(settings) & set(OF_A_FOLDER)):
            raise TypeError(f"'{of_a_folder[0]}' is for runs over a folder: ichseg segment")
        for name, value in settings.items():
            if value is not None:
                check_value(name, known[name], value)
        given = {"weights": weights, "device_name": device, "threshold": threshold, "min_volume_ml": min_volume_ml}
        given |= settings
        check_numbers(given)
        parts = BundleParts(BUNDLE, config, given)
        self.device, self.network, self.inferer = parts["device"], parts["run_network"].eval(), parts["inferer"]
        before, after = parts["preprocessing"], parts["postprocessing"]
        self.before = Compose(before.flatten().transforms[1:])  # the first one reads a file
        self.after = [step for step in after.transforms if not isinstance(step, SaveImaged)]

    def __call__(self, image: Image, affine: np.ndarray | None = None, probabilities: bool = False) -> np.ndarray:
        """Mask, or probabilities, of one scan on its own grid. Doubts about the scan are issued as warnings.

        Args:
            image, affine: as of :func:`segment`.
            probabilities: give the probability of hemorrhage instead of the mask.

        Returns:
            (X, Y, Z) uint8, or float32 for probabilities.

        Raises:
            ScanError: the scan cannot be used.
        """
        volume = given_volume(image, affine)
        for flag in volume.flags:
            warnings.warn(f"{volume.path}: {flag}", stacklevel=2)
        item: dict[str, Any] = self.before({"image": as_tensor(volume)})
        with torch.no_grad():
            item["pred"] = self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()
            for step in self.after:
                if probabilities and isinstance(step, HemorrhageMaskd):
                    break
                item = step(item)
        for flag in item.get("flags", ()):
            warnings.warn(f"{volume.path}: {flag}", stacklevel=2)
        return np.ascontiguousarray(item["pred"][0].numpy().astype(np.float32 if probabilities else np.uint8))


def segment(
    image: Image,
    affine: np.ndarray | None = None,
    output: str | Path | None = None,
    probabilities: bool = False,
    **options: Any,
) -> Any:
    """Outline hemorrhage in one head CT.

        mask = ichseg.segment("scan.nii.gz")                        # nibabel image
        mask = ichseg.segment(nib.load("scan.nii.gz"))              # nibabel image
        mask = ichseg.segment(array, affine)                        # array
        path = ichseg.segment("scan.nii.gz", output="mask.nii.gz")  # the path written

    Args:
        image: a NIfTI file, an image of nibabel or SimpleITK, or an array, a tensor or a MetaTensor (X, Y, Z) in
            Hounsfield units; 4-D with one volume will do.
        affine: (4, 4) voxel-to-RAS matrix in mm; for arrays and tensors, which need one.
        output: a file to write the mask to, with the geometry of the scan; for files and nibabel images.
        probabilities: give probabilities (float32) instead of the mask (uint8).
        **options: of :class:`Segmenter`; the model of the last call is kept.

    Returns:
        the mask in the shape and geometry of the scan: a nibabel image for files and nibabel images, a SimpleITK image
        for one of those, an array for arrays, a tensor with the meta data for tensors; the path if ``output`` is given.

    Raises:
        ScanError: the scan cannot be used; one line that says why.
        IchsegError: weights or device are not there.
    """
    if output is not None and not isinstance(image, str | Path) and not hasattr(image, "dataobj"):
        raise ValueError("output requires a file or a nibabel image as input; an array has no header")
    if output is not None and not is_nifti(output):
        raise IchsegError(f"{output}: output must be a .nii or .nii.gz file")
    file = weight_file(options.get("weights"))
    stat = file.stat() if file.is_file() else None  # a file that was replaced is another model
    which = () if stat is None else (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    mask = _segmenter(tuple(sorted(options.items())), which)(image, affine, probabilities)
    if isinstance(image, np.ndarray):
        return mask.reshape(image.shape)
    if isinstance(image, torch.Tensor):
        return like(torch.from_numpy(mask).reshape(image.shape), image)
    if is_sitk(image):
        return sitk_like(mask, image)
    if isinstance(image, str | Path):
        if output is not None:
            write_like(output, mask, image)
            return Path(output)
        return image_like(mask, read_header(Path(image)), image)
    found = image_like(mask, header_of(image), NAMELESS)
    if output is not None:
        save_image(output, found)
        return Path(output)
    return found


@lru_cache(maxsize=1)
def _segmenter(options: tuple[tuple[str, Any], ...], _which: tuple[int, ...]) -> Segmenter:
    return Segmenter(**dict(options))
