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
    given = SCAN if name != "HemorrhageMask" else (SCAN + 20) / 120
    given = np.concatenate([given, given]) if name == "HemorrhageProbability" else given
    mine, right = step(given.copy()), step(torch.from_numpy(given))
    assert torch.equal(torch.as_tensor(mine), right)
    assert torch.equal(torch.as_tensor(step(given.astype(">f4"))), right)


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
        with pytest.raises(ScanError, match="3 values per voxel"):
            ichseg.segment(colors, **options)


def test_transforms_stand_in_a_compose_of_plain_tensors():
    steps = Compose(
        [transforms.SliceResized("image", 16), transforms.BrainWindowd("image"), transforms.NeighborSlicesd("image")]
    )
    assert steps({"image": SCAN})["image"].shape == (3, 16, 16, 5)


def test_masks_keep_their_codes_and_other_things_are_refused():
    scan = lambda values: MetaTensor(values, affine=AFFINE)  # noqa: E731
    codes = lesion() * 3
    codes[0, 25, 25, 8] = 5  # 3.6 uL
    kept = transforms.RemoveSmallLesions(0.4)(scan(codes))
    assert kept.unique().tolist() == [0, 3] and int((kept == 3).sum()) == 200
    codes[0, 14, 14, 4] = 0
    filled = transforms.FillSmallHoles(4.0)(scan(codes))
    assert filled[0, 14, 14, 4] == 3 and set(filled.unique().tolist()) == {0, 3, 5}
    both = scan(torch.cat([1 - lesion(), lesion()]))
    for step in (transforms.RemoveSmallLesions(0.4), transforms.FillSmallHoles(4.0)):
        with pytest.raises(ValueError, match="expected a mask"):
            step(both)
        for wrong in (lesion() * 0.3, lesion() * float("nan")):
            with pytest.raises(ValueError, match="whole label codes"):
                step(scan(wrong))
    with pytest.raises(ValueError, match="expected a mask"):
        transforms.MeasureHemorrhaged("m")({"m": both, "image": SCAN})


def test_a_metatensor_without_an_affine_is_told():
    bare = MetaTensor(lesion())
    with pytest.warns(UserWarning, match="was the real one lost"):
        transforms.RemoveSmallLesions(0.4)(bare)
    assert int(transforms.RemoveSmallLesions(0.4, spacing=(0.84, 0.84, 5.08))(bare).sum()) == 200
    with pytest.warns(UserWarning, match="has the file lost its affine"):
        ichseg.measure(lesion()[0].numpy(), np.eye(4))


def test_what_is_no_logit_or_no_probability_is_refused():
    logits = torch.randn(2, 8, 8, 3)
    with pytest.raises(ValueError, match="C >= 2"):
        transforms.HemorrhageProbability()(logits[:1])
    with pytest.raises(ValueError, match="probabilities already"):
        transforms.HemorrhageProbability()(logits.softmax(0))
    for wrong in (logits * 4, logits * float("nan")):
        with pytest.raises(ValueError, match="expected probabilities"):
            transforms.HemorrhageMask(0.5)(wrong)


@pytest.mark.parametrize("values", [(0, 255), (0, 117, 3), (-1, 0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int16])
def test_label_codes_of_all_kinds_stay(values, dtype):
    codes = torch.tensor(values)[torch.randint(len(values), (1, 40, 40, 3))].to(dtype)
    label = MetaTensor(codes, affine=AFFINE)
    image = MetaTensor(torch.rand(1, 40, 40, 3) * 100, affine=AFFINE)
    for step in (transforms.HeadCropd, transforms.SliceResized):
        found = step(["image", "label"], 24)({"image": image, "label": label})["label"]
        assert set(found.unique().tolist()) <= {*map(float, values), 0.0}


def test_one_hot_masks_are_not_taken_for_certain():
    image = torch.zeros(1, 64, 64)
    image[:, 16:48, 16:48] = 200
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:52, 20:52] = 1
    alone = transforms.RefineWithCRF()(mask, image)
    both = transforms.RefineWithCRF()(torch.cat([1 - mask, mask]), image)
    assert torch.equal(alone, both) and not torch.equal(alone, mask)


def test_the_affine_of_a_metatensor_counts():
    head = phantom_scan(seed=2, size=96, slices=10)
    mirrored = head.affine @ np.diag([-1, 1, 1, 1])
    mirrored[:3, 3] += head.affine[:3, 0] * (head.image.shape[0] - 1)
    scan = MetaTensor(torch.from_numpy(head.image[::-1].astype(np.float32)), affine=torch.from_numpy(mirrored))
    with pytest.warns(UserWarning, match="not on the same grid"):
        assert "side" not in ichseg.measure((head.label > 0).astype(np.uint8), head.affine, image=scan)
