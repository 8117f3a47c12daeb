"""Volumes without metadata, channel axis or label mode: transforms work, or say plainly what they need."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils.enums import TransformBackends

import ichseg
from ichseg import transforms
from ichseg.errors import ScanError
from ichseg.synthetic.phantom import phantom_scan

AFFINE = torch.diag(torch.tensor([-0.84, -0.84, 5.08, 1.0], dtype=torch.float64))
SCAN = (np.random.default_rng(0).random((1, 32, 32, 5)) * 120 - 20).astype(np.float32)


def lesion():
    mask = torch.zeros(1, 32, 32, 10, dtype=torch.uint8)
    mask[0, 10:20, 10:20, 4:6] = 1  # 200 voxels, 0.72 mL
    return mask


@pytest.mark.parametrize("given", [lesion(), lesion().numpy()])
def test_milliliters_need_an_affine_or_a_spacing(given):
    step = transforms.RemoveSmallLesions(0.4)
    assert int(step(MetaTensor(lesion(), affine=AFFINE)).sum()) == 200
    with pytest.raises(ValueError, match="needs an affine in mm"):
        step(given)
    spacing = (0.84, 0.84, 5.08)
    assert int(transforms.RemoveSmallLesions(0.4, spacing=spacing)(given).sum()) == 200
    assert int(transforms.RemoveSmallLesions(0.8, spacing=spacing)(given).sum()) == 0
    with pytest.raises(ValueError, match="needs an affine in mm"):
        transforms.FillSmallHoles(2.0)(given)
    with pytest.raises(ValueError, match="needs an affine in mm"):
        transforms.MeasureHemorrhaged("mask")({"mask": given, "image": SCAN})
    with pytest.raises(ValueError, match="three positive numbers"):
        transforms.RemoveSmallLesions(0.4, spacing=(1, 2))


STEPS = {
    "HeadCrop": lambda: transforms.HeadCrop(16),
    "SliceResize": lambda: transforms.SliceResize(16),
    "NeighborSlices": transforms.NeighborSlices,
    "BrainWindow": transforms.BrainWindow,
    "HemorrhageMask": transforms.HemorrhageMask,
    "HemorrhageProbability": transforms.HemorrhageProbability,
}


@pytest.mark.parametrize("name", STEPS)
def test_arrays_are_taken_like_tensors(name):
    step = STEPS[name]()
    mine, right = step(SCAN.copy()), step(torch.from_numpy(SCAN))
    assert torch.equal(torch.as_tensor(mine), right)


@pytest.mark.parametrize("name", [n for n in STEPS if n != "BrainWindow"])
def test_channels_last_are_refused(name):
    with pytest.raises(ValueError, match=r"channels last|classes first"):
        STEPS[name]()(np.moveaxis(SCAN, 0, -1))
    with pytest.raises(ValueError, match=r"expected (a volume \(C, X, Y, Z\), not shape|classes first)"):
        STEPS[name]()(SCAN[0])


def test_labels_are_not_interpolated():
    head = phantom_scan(seed=2, size=64, slices=4)
    image = MetaTensor(torch.from_numpy(head.image[None].astype(np.float32)), affine=torch.from_numpy(head.affine))
    label = MetaTensor(torch.from_numpy((head.label[None] > 0) * 3.0), affine=torch.from_numpy(head.affine))
    soft = MetaTensor(torch.rand(1, 64, 64, 4), affine=torch.from_numpy(head.affine))
    for step in (transforms.HeadCropd, transforms.SliceResized):
        found = step(["image", "label", "soft"], 48)({"image": image, "label": label, "soft": soft})
        assert set(found["label"].unique().tolist()) <= {0.0, 3.0} and found["label"].any()
        assert len(found["image"].unique()) > 100 and len(found["soft"].unique()) > 100
        explicit = step(["image", "label"], 48, mode="bilinear")({"image": image, "label": label})
        assert len(explicit["label"].unique()) > 2  # who asks for it gets it
    # The scan in which the head is looked for is an image, whatever its values.
    flat = MetaTensor((image.as_tensor() > 0).float() * 30, affine=image.affine)
    assert len(transforms.HeadCropd("image", 48)({"image": flat})["image"].unique()) > 2


def test_names_and_backends_are_those_of_monai():
    named = [n for n in transforms.__all__ if n.endswith("d") and hasattr(getattr(transforms, n), "key_iterator")]
    assert "HeadCropd" in named and len(named) > 15
    for name in named:
        kind = getattr(transforms, name)
        assert getattr(transforms, f"{name[:-1]}D") is kind and getattr(transforms, f"{name[:-1]}Dict") is kind
        assert TransformBackends.TORCH in kind.backend
    assert TransformBackends.TORCH in transforms.HeadCrop.backend


def test_slice_labels_need_the_order_of_the_slices():
    with pytest.raises(ValueError, match="need the scan's affine"):
        transforms.GateSlicesd("p", by="label")(
            {"p": torch.ones(5), "slice_labels": [1] * 5, "image": torch.rand(1, 4, 4, 5)}
        )


def test_whatever_is_no_mask_is_not_measured():
    for array, said in (
        (np.full((4, 4, 4), np.nan), "NaN"),
        (np.full((4, 4, 4), np.inf), "infinite"),
        (np.full((4, 4, 4), 0.3), "whole label codes"),
        (np.full((4, 4, 4), 1j), "not label codes"),
    ):
        with pytest.raises(ScanError, match=said):
            ichseg.measure(array, np.eye(4))


def test_every_kind_of_image_gives_the_same_mask(tmp_path):
    import nibabel as nib
    import SimpleITK as sitk

    head = phantom_scan(seed=2, size=64, slices=6)
    image = nib.Nifti1Image(head.image, head.affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    options = {"device": "cpu", "size": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = np.asarray(ichseg.segment(tmp_path / "scan.nii.gz", **options).dataobj)
        itk = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
        mask = ichseg.segment(itk, **options)
        assert np.array_equal(sitk.GetArrayFromImage(mask).T, right)
        assert mask.GetDirection() == itk.GetDirection() and mask.GetSpacing() == itk.GetSpacing()
        assert ichseg.measure(mask) == ichseg.measure(right, head.affine)
        tensor = torch.from_numpy(head.image.astype(np.float32))
        assert np.array_equal(ichseg.segment(tensor, head.affine, **options).numpy(), right)
        meta = MetaTensor(tensor[None], affine=torch.from_numpy(head.affine))
        found = ichseg.segment(meta, **options)
        assert found.shape == meta.shape and np.array_equal(found[0].numpy(), right)
        with pytest.raises(ScanError, match="an array needs its affine"):
            ichseg.segment(tensor, **options)
        with pytest.raises(TypeError, match="SimpleITK"):
            ichseg.segment([1, 2], **options)
        colors = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
        with pytest.raises(ScanError, match="3 values a voxel"):
            ichseg.segment(colors, **options)


def test_transforms_stand_in_a_compose_of_plain_tensors():
    steps = Compose(
        [transforms.SliceResized("image", 16), transforms.BrainWindowd("image"), transforms.NeighborSlicesd("image")]
    )
    assert steps({"image": SCAN})["image"].shape == (3, 16, 16, 5)
