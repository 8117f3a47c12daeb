"""What MONAI users rely on: slices stay slices, batches stay whole, meta data stay, a device or precision is any."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.inferers import SliceInferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, MapTransform, Orientation

import ichseg.transforms
from ichseg.cam import principal_component
from ichseg.context import fuse
from ichseg.data.slices import slice_labels_in_order
from ichseg.dicom.writer import WriteDicomd
from ichseg.inference import SliceBatchInferer, SliceScorer
from ichseg.io.urls import DICOM
from ichseg.methods.hgi_sam.volume import AttentionMapsd
from ichseg.methods.resnet_lstm.volume import SequenceMasksd
from ichseg.methods.slice_masks import SliceMasksd
from ichseg.networks import slice_classifier
from ichseg.transforms import (
    CheckSameGridd,
    CompareAppearanced,
    DenseCRF,
    GateSlicesd,
    HeadCrop,
    HeadCTReader,
    LayerAggregationd,
    MeasureHemorrhaged,
    NeighborSlices,
    RandImplantHemorrhaged,
    RemoveShelld,
    SaveImageMaskd,
    SaveSliceProbabilityd,
    SliceResize,
    SlicesLastd,
    gray_range,
)
from ichseg.transforms.base import DictionaryTransform, SingleKeyTransform
from ichseg.transforms.volumes import volume_slice_axis

# What the transforms need that no array transform stands behind; the others share one base class.
NEEDED = {
    AttentionMapsd: {"network": torch.nn.Identity()},
    CheckSameGridd: {},
    CompareAppearanced: {"reference": {"mean": [0.0], "deviation": [1.0], "precision": [[1.0]]}},
    GateSlicesd: {"by": "label"},
    LayerAggregationd: {"reference_key": "image", "output_key": "pred"},
    MeasureHemorrhaged: {},
    RemoveShelld: {},
    SaveImageMaskd: {"output_dir": "none"},
    SaveSliceProbabilityd: {"output_dir": "none"},
    SequenceMasksd: {"network": torch.nn.Identity()},
    SliceMasksd: {"maker": torch.nn.Identity()},
    SlicesLastd: {},
    WriteDicomd: {"output_dir": "none", "kinds": "seg", "weights": "none"},
}
DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def test_slices_stay_what_they_were_when_pixels_change():
    """A resized slice has other edges than the scan had, by which the axis of slices is told."""
    wide = MetaTensor(torch.rand(1, 128, 80, 10), affine=torch.diag(torch.tensor([-0.5, -0.5, 0.6, 1.0])))
    assert volume_slice_axis(wide) == 2
    resize = SliceResize(64)
    resized = resize(wide)
    assert volume_slice_axis(resize.inverse(resized.clone())) == 2
    assert volume_slice_axis(resized) == 2 and SliceResize(32)(resized).shape == (1, 32, 32, 10)
    turned = Orientation("SRA", labels=None)(resized)  # a direction in the patient does not mind the order of axes
    assert turned.shape == (1, 10, 64, 64) and volume_slice_axis(turned) == 0


def test_neighbors_of_a_coronal_scan_are_its_slices():
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = -0.5, -0.5, 1.5, 1.0  # right, down, and to the front
    scan = torch.arange(40.0).expand(1, 64, 64, 40).clone()
    for first in (HeadCrop(96), SliceResize(96)):
        shown = NeighborSlices(3.0)(first(MetaTensor(scan, affine=torch.as_tensor(affine))))
        assert shown[:, 48, 48, 30].round().tolist() == [30, 28, 32]


@pytest.mark.parametrize("codes", ["RSA", "RSP", "ASR", "ASL", "LPS", "RAI"])
def test_labels_follow_the_slices_of_every_orientation(tmp_path, codes):
    stored = np.eye(4)
    for axis, (code, length) in enumerate(zip(codes, (0.5, 0.5, 5.0), strict=True)):
        stored[:3, axis] = length * np.array(DIRECTIONS[code])
    array = np.broadcast_to(np.arange(6, dtype=np.int16), (16, 16, 6))  # every slice has its number
    nib.Nifti1Image(array, stored).to_filename(tmp_path / "scan.nii.gz")
    steps = [LoadImaged("image", reader=HeadCTReader()), EnsureChannelFirstd("image", channel_dim="no_channel")]
    shown = Compose([*steps, SlicesLastd("image")])({"image": str(tmp_path / "scan.nii.gz")})["image"]
    order = slice_labels_in_order(range(6), stored, np.asarray(shown.affine))
    assert shown[0, 8, 8].tolist() == order.tolist()


def test_every_scan_of_a_batch_gets_its_result():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    scans = torch.rand(3, 1, 16, 16, 5)
    scans[1, ..., 2] = scans[2, ..., 4] = 0.5  # slices of one value
    with torch.no_grad():
        expected = SliceInferer(spatial_dim=2, roi_size=(16, 16))(scans, network)
        assert torch.allclose(SliceBatchInferer(2)(scans, network), expected, atol=1e-6)
        scores = SliceScorer()(scans, lambda x: network(x).mean((2, 3)))
    assert scores.shape == (3, 5) and torch.allclose(scores, expected.mean((2, 3))[:, 1], atol=1e-6)
    with pytest.raises(ValueError, match=r"expected volumes \(B, C, X, Y, slices\)"):
        SliceBatchInferer()(scans[0], network)


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_take_over_the_callers_precision(workers):
    network = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert SliceBatchInferer(1, workers)(torch.rand(1, 1, 8, 8, 4), network).dtype == torch.bfloat16


def test_a_callers_autocast_lowers_nothing_of_the_method():
    torch.manual_seed(0)
    features, maps = torch.rand(2, 8, 9, 9), torch.rand(5, 9, 9)
    plain = principal_component(features), fuse(maps)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = principal_component(features), fuse(maps)
    assert all(torch.equal(*pair) for pair in zip(plain, lowered, strict=True)) and lowered[1].dtype == torch.float32


def test_implants_keep_the_kind_of_an_item(phantoms):
    scan = nib.load(sorted((phantoms / "images").iterdir())[3])
    gray = ((torch.as_tensor(np.asarray(scan.dataobj, np.float32)) + 15) / 130).clamp(0, 1)
    transform = RandImplantHemorrhaged("image", "label", prob=0.5, level=50, width=130).set_random_state(2)
    items = [{"image": MetaTensor(gray[None, ..., 4]), "label": 0} for _ in range(8)]
    made = [transform(item) for item in items]
    assert {int(item["label"]) for item in made} == {0, 1}
    assert {type(item["image"]) for item in made} == {MetaTensor}
    batch = list_data_collate(made)
    assert batch["image"].shape == (8, 1, 64, 64) and batch["label"].shape == (8,)


def test_gray_range_of_an_8_bit_picture_that_names_its_range():
    image = MetaTensor((torch.rand(1, 8, 8, 3) * 255).round(), meta={"cal_min": 0.0, "cal_max": 255.0})
    assert gray_range(image) == (0.0, 255.0)


def test_overlapping_classes_are_refused():
    image = torch.rand(1, 16, 16)
    with pytest.raises(ValueError, match=r"3 channels sum to up to 1.85"):
        DenseCRF()(torch.tensor([0.0, 0.9, 0.95]).view(3, 1, 1).expand(3, 16, 16), image)


def test_convnext_is_torchscript():
    torch.manual_seed(0)
    network = slice_classifier("convnextv2_tiny").eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(torch.jit.script(network)(x), network(x), atol=1e-5)


@pytest.mark.parametrize("made", NEEDED, ids=lambda made: made.__name__)
def test_missing_keys_can_be_allowed(made):
    item = {"image": MetaTensor(torch.rand(1, 8, 8, 4)), "slice_labels": [0, 0, 0, 1], DICOM: {}}
    assert made("absent", **NEEDED[made], allow_missing_keys=True)(item) == item
    with pytest.raises(KeyError, match="absent"):
        made("absent", **NEEDED[made])(item)
    if issubclass(made, SingleKeyTransform):
        with pytest.raises(ValueError, match=f"{made.__name__} takes one key, not one, two"):
            made(["one", "two"], **NEEDED[made])


def test_every_dictionary_transform_is_tried():
    ours = {
        made for made in vars(ichseg.transforms).values() if isinstance(made, type) and issubclass(made, MapTransform)
    }
    by_hand = {made for made in ours if not issubclass(made, DictionaryTransform)}
    assert by_hand - {RandImplantHemorrhaged} == {made for made in NEEDED if made in ours}  # its keys are named apart
