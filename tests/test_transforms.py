"""The MONAI transforms: geometry, order of slices, inversion, the toy of the method's last step."""

from __future__ import annotations

import inspect
import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd
from torch import nn

from ichseg.cam import CAMExtractor, min_max
from ichseg.context import amplify, upsample
from ichseg.data import SliceDataset, load_datalist
from ichseg.data.slices import slice_labels_in_order
from ichseg.errors import IchsegError, one_line
from ichseg.io import read_mask, write_volume
from ichseg.networks import ClassifierEnsemble
from ichseg.transforms import (
    BrainWindowd,
    ClassActivationMap,
    ClassActivationMapd,
    DenseCRFd,
    GateSlicesd,
    HeadCropd,
    HeadCTReader,
    HemorrhageMaskd,
    KeepIntracraniald,
    LayerAggregation,
    LayerAggregationd,
    RandImplantHemorrhaged,
    RestoreBone,
    RestoreBoned,
    SaveImageMaskd,
    ShallowFeatureCAM,
    ShallowFeatureCAMd,
    SliceResized,
    SpatialContextFusiond,
)

LPS = [["L", "R"], ["P", "A"], ["I", "S"]]


def loading(size=32, orient=True, keys=("image",)):
    steps = [LoadImaged(keys, reader=HeadCTReader()), EnsureChannelFirstd(keys, channel_dim="no_channel")]
    steps += [Orientationd(keys, "LPS", labels=LPS)] if orient else []
    return Compose([*steps, BrainWindowd(keys), SliceResized(keys, size)])


def volume(shape=(1, 8, 9, 5), affine=None):
    return MetaTensor(
        torch.rand(shape), affine=torch.as_tensor(np.diag([-1, -1, 5, 1.0]) if affine is None else affine)
    )


def test_window_is_the_same_for_every_slice():
    item = BrainWindowd("image")({"image": torch.tensor([-500.0, -15, 50, 115, 3000])})
    assert item["image"].tolist() == [0, 0, 0.5, 1, 1]
    with pytest.raises(ValueError, match="width must be positive"):
        BrainWindowd("image", width=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_resize_finds_the_slices_and_can_be_undone(axis):
    order = [a for a in range(3) if a != axis]
    affine = np.zeros((4, 4))
    affine[order[0], 0 if axis != 0 else 1], affine[3, 3] = -1, 1
    affine = np.eye(4)
    directions = np.zeros((3, 3))
    directions[2, axis] = 5
    directions[0, order[0]], directions[1, order[1]] = -0.5, -0.5
    affine[:3, :3] = directions
    shape = [12, 10, 11]
    shape[axis] = 4
    item = {"image": volume((1, *shape), affine)}
    transform = Compose([SliceResized("image", 6)])
    small = transform(item)["image"]
    expected = [6, 6, 6]
    expected[axis] = 4
    assert list(small.shape[1:]) == expected
    # The corner of the field of view stays where it is.
    corner = [-0.5, -0.5, -0.5, 1]
    np.testing.assert_allclose(np.asarray(small.affine) @ corner, affine @ corner, atol=1e-6)
    assert item["image"].applied_operations == [] and np.array_equal(np.asarray(item["image"].affine), affine)
    back = transform.inverse({"image": small})["image"]
    assert list(back.shape[1:]) == shape
    np.testing.assert_allclose(np.asarray(back.affine), affine)


def orientations():
    for flips in itertools.product((1, -1), repeat=3):
        affine = np.diag([0.5 * flips[0], 0.5 * flips[1], 5.0 * flips[2], 1.0])
        yield affine
    tilted = np.diag([-0.5, -0.5, 5.0, 1.0])
    tilted[1, 2], tilted[2, 1] = 1.5, 0.15
    yield tilted
    sagittal = np.array([[0, 0, -0.5, 0], [-0.5, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 0, 1]])
    yield sagittal


@pytest.mark.parametrize("affine", list(orientations()))
def test_mask_returns_to_the_voxels_it_came_from(tmp_path, affine):
    """Mark a block by its density, threshold it as a network would, and find it in the same voxels of the file."""
    array = np.zeros((24, 20, 22), np.int16)
    array[5:9, 3:7, 14:20] = 70
    write_volume(tmp_path / "scan.nii.gz", array, affine)
    loader = loading(size=48)
    item = loader({"image": str(tmp_path / "scan.nii.gz")})
    item["pred"] = torch.stack([item["image"][0] < 0.4, item["image"][0] >= 0.4]).float()
    steps = Compose(
        [
            Invertd("pred", loader, "image", nearest_interp=False),
            HemorrhageMaskd("pred"),
            SaveImageMaskd("pred", tmp_path),
        ]
    )
    steps(item)
    mask, found = read_mask(tmp_path / "scan_ich.nii.gz")
    np.testing.assert_array_equal(found, nib.load(tmp_path / "scan.nii.gz").affine)
    assert mask.shape == array.shape
    overlap = 2 * (mask & (array > 0)).sum() / (mask.sum() + (array > 0).sum())
    assert overlap > 0.8  # a block of 4 voxels, resized and back


def test_reader_errors_reach_the_user_as_one_line(tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"\x1f\x8bjunk")
    with pytest.raises(RuntimeError) as caught:
        loading()({"image": str(tmp_path / "bad.nii.gz")})
    assert one_line(caught.value).startswith(f"{tmp_path}/bad.nii.gz: damaged or truncated gzip file")


def test_slice_labels_follow_the_slices_of_an_upside_down_file(tmp_path):
    array = np.zeros((8, 8, 4), np.int16)
    array[..., 0] = 60  # the first stored slice is bright, labeled 1, and the highest
    write_volume(tmp_path / "scan.nii.gz", array, np.diag([-1, -1, -5, 1.0]))
    scan = {"case": "scan", "image": str(tmp_path / "scan.nii.gz"), "slice_labels": [1, 0, 0, 0]}
    dataset = SliceDataset([scan], loading(8), progress=False)
    bright = [float(dataset[i]["image"].mean()) > 0.3 for i in range(4)]
    assert bright == [False, False, False, True]
    assert [int(dataset[i]["label"]) for i in range(4)] == [0, 0, 0, 1]
    assert [dataset[i]["slice_index"] for i in range(4)] == [3, 2, 1, 0]
    assert slice_labels_in_order([1, 0], np.eye(4), np.eye(4)).tolist() == [1, 0]


def test_slice_dataset_keeps_annotated_slices_only(phantoms):
    scan = load_datalist(phantoms / "datalist.json", [0])[0] | {"label_slices": [1, 5]}
    scan["slice_labels"] = [0] * 8
    steps = Compose(
        [
            LoadImaged("image", reader=HeadCTReader()),
            LoadImaged("label", reader=HeadCTReader(labels=True)),
            EnsureChannelFirstd(["image", "label"], channel_dim="no_channel"),
            BrainWindowd("image"),
            SliceResized(["image", "label"], 32, ["bilinear", "nearest"]),
        ]
    )
    dataset = SliceDataset([scan], steps, target="mask", progress=False)
    assert [index for _, index in dataset.index] == [1, 5] and dataset[0]["label"].shape == (1, 32, 32)
    # Labeled positive, but the mask is empty: left out.
    empty = [
        i
        for i in range(8)
        if not SliceDataset([scan | {"label_slices": [i]}], steps, None, "mask", False).positive.any()
    ]
    claimed = scan | {"label_slices": list(range(8)), "slice_labels": [1] * 8}
    assert empty and {i for _, i in SliceDataset([claimed], steps, None, "mask", False).index} == set(range(8)) - set(
        empty
    )
    # ... or taken for background, unless nobody has annotated them,
    believed = SliceDataset([claimed], steps, None, "mask", False, empty_masks="background")
    assert len(believed) == 8 and [i for i in range(8) if not believed[i]["label"].any()] == empty
    some = scan | {"slice_labels": [1] * 8}
    assert [i for _, i in SliceDataset([some], steps, None, "mask", False, empty_masks="background").index] == [1, 5]
    with pytest.raises(IchsegError, match="empty_masks must be unknown or background, not 'skip'"):
        SliceDataset([claimed], steps, None, "mask", False, empty_masks="skip")
    # ... or kept with a mask of -1 all over, and so are positive slices nobody has annotated
    kept = SliceDataset([claimed], steps, None, "mask", False, keep_unmasked=True)
    assert len(kept) == 8 and kept.positive.all()
    assert (
        [i for i in range(8) if bool((kept[i]["label"] == -1).all())] == empty == np.flatnonzero(kept.unmasked).tolist()
    )
    assert all(kept[i]["label"].min() == 0 for i in range(8) if i not in empty)
    some = scan | {"slice_labels": [0, 0, 1, 1, 0, 0, 0, 0]}
    assert [i for _, i in SliceDataset([some], steps, None, "mask", False).index] == [1, 5]
    kept = SliceDataset([some], steps, None, "mask", False, keep_unmasked=True)
    assert [i for _, i in kept.index] == [1, 2, 3, 5] and kept.unmasked.tolist() == [False, True, True, False]
    with pytest.raises(IchsegError, match="datalist lists 3 slice_labels"):
        SliceDataset([scan | {"slice_labels": [0, 1, 0]}], loading(), progress=False)


class Spot(nn.Module):
    """Calls a slice positive if it has bright pixels; blind to slices whose corner is marked."""

    def __init__(self, blind: bool):
        super().__init__()
        self.blind = blind
        self.layer1 = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4))
        self.layer2 = nn.AvgPool2d(2)
        nn.init.constant_(self.layer1[0].weight, 1.0)

    def forward(self, x):
        seen = 0.0 if self.blind else 1.0
        keep = torch.where(x[:, :, 0, 0, None, None] > 0.05, seen, 1.0)
        score = self.layer2(self.layer1((x - 0.6).relu() * keep)).flatten(1).sum(1) * 40 - 2
        return torch.stack([-score, score], 1)


def toy_scan():
    """Five slices, a disc of 12 pixels in the middle three; the corner of slice 3 is marked."""
    disc = torch.hypot(*(torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")) - 30)) < 6
    scan = torch.full((1, 64, 64, 5), 0.3)
    scan[..., 0, :] = 0
    scan[0, :, :, 1:4][disc] = 0.9
    scan[:, 0, 0, :] = 0
    scan[:, 0, 0, 2] = 0.1
    return MetaTensor(scan, affine=torch.as_tensor(np.diag([-1, -1, 5, 1.0]))), disc


def test_context_rescues_a_slice_one_classifier_is_blind_to():
    scan, _ = toy_scan()
    pair = [Spot(blind=False), Spot(blind=True)]
    maps, probabilities = ShallowFeatureCAM(pair, gate=0.4, batch_size=2)(scan)
    assert [bool(p >= 0.4) for p in probabilities] == [False, True, True, True, False]
    item = {"image": scan, "cam": maps[1], "p": probabilities}
    fused = SpatialContextFusiond("cam", "p", gate=0.4)(item)["cam"]
    center = (0, 3, 3)
    before, after = float(maps[1][(*center, 2)]), float(fused[(*center, 2)])
    neighbor = float(maps[1][(*center, 1)])
    assert before < 0.55 * neighbor and after > 1.3 * before
    assert fused[..., 0].eq(0).all() and fused[..., 4].eq(0).all()


def test_whole_chain_in_a_plain_compose():
    scan, disc = toy_scan()
    chain = Compose(
        [
            ShallowFeatureCAMd("image", [Spot(False)], batch_size=2),
            SpatialContextFusiond(["image_cam_1", "image_cam_2"], "image_probability"),
            LayerAggregationd(["image_cam_1", "image_cam_2"], "image", "mask", threshold=0.3),
            DenseCRFd("mask", "image", iterations=3),
        ]
    )
    mask = chain({"image": scan})["mask"]
    assert mask.shape == scan.shape and set(mask.unique().tolist()) <= {0.0, 1.0}
    for index in (1, 2, 3):
        found = mask[0, ..., index] > 0
        assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.8
    assert mask[..., 0].sum() == 0 and mask[..., 4].sum() == 0


def test_kept_maps_are_taken_again_and_only_for_the_same_question(tmp_path):
    scan, _ = toy_scan()

    def maps(**options):
        return ShallowFeatureCAM([Spot(False)], batch_size=2, cache_dir=tmp_path, **options)(scan)[0]

    first = maps(gate=0.9)
    files = list(tmp_path.iterdir())
    assert len(files) == 1 and not torch.equal(first[0], torch.zeros_like(first[0]))
    made = torch.load(files[0], weights_only=True)
    made = {number: [one * 0 + 0.25 for one in found] for number, found in made.items()}
    torch.save(made, files[0])
    again = maps(gate=0.9)
    assert sorted(made) == [1, 2, 3] and again[0][..., 1:4].eq(0.25).all() and again[0][..., 0].eq(0).all()
    wider = maps(gate=0.0)  # more slices: the known ones are taken, the others made and kept
    assert wider[0][..., 2].eq(0.25).all() and sorted(torch.load(files[0], weights_only=True)) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(maps(gate=0.9, combine="additive", amplify_scale=0)[1].shape, first[1].shape)
    assert len(list(tmp_path.iterdir())) == 2  # another question has another file
    network = Spot(False)
    taking = ShallowFeatureCAM([network], gate=0.0, cache_dir=tmp_path / "own")
    before = taking(scan)[0][0]
    with torch.no_grad():
        network.layer1[0].weight.zero_()
    assert not torch.equal(taking(scan)[0][0], before)  # so have other weights, and other settings of a layer
    seen = ShallowFeatureCAM([Spot(True)], gate=0.0, cache_dir=tmp_path / "two")(scan)[0][1]
    blind = ShallowFeatureCAM([Spot(False)], gate=0.0, cache_dir=tmp_path / "two")(scan)[0][1]
    assert not torch.equal(seen, blind)


def test_networks_keep_their_mode_and_statistics():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    cam = ShallowFeatureCAM([network.train()], ["0", "1"], gate=0.0)
    mean = network[1].running_mean.clone()
    cam(volume((1, 9, 9, 4)).double())  # whatever the type
    assert network.training and network[1].training and torch.equal(network[1].running_mean, mean)


def test_an_ensemble_brings_its_layers_and_its_vote():
    pair = ClassifierEnsemble([Spot(False), Spot(True)], [["layer2"], ["layer2"]], vote="either")
    scan, _ = toy_scan()
    maps, probabilities = ShallowFeatureCAM(pair)(scan)
    assert len(maps) == 1
    alone = ShallowFeatureCAM([Spot(False)]).score(scan.as_tensor().movedim(3, 0))
    torch.testing.assert_close(probabilities, alone)


class Counting(torch.nn.Module):
    """A network that remembers which slices went through it, and which came back."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen, self.back = network, [], []
        self.layer1, self.layer2 = network.layer1, network.layer2

    def forward(self, x):
        self.seen += x.flatten(1).amax(1).tolist()
        if torch.is_grad_enabled():
            x = x.clone().requires_grad_(True)
            x.register_hook(lambda gradient: self.back.append(len(gradient)))
        return self.network(x)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_slice_is_seen_once_and_only_what_is_unknown_or_positive(batch_size):
    scan, _ = toy_scan()
    expected = ShallowFeatureCAM([Spot(False), Spot(False)], gate=0.4)(scan)
    nan = float("nan")
    for known, looked_at in ((None, 5), (torch.tensor([0, nan, 1, nan, 0]), 3), (torch.zeros(5), 0)):
        pair = [Counting(Spot(False)), Counting(Spot(False))]
        maps, probabilities = ShallowFeatureCAM(pair, gate=0.4, batch_size=batch_size)(scan, known)
        assert all(len(network.seen) == looked_at for network in pair)
        if known is None or known.isnan().any():
            for mine, right in zip(maps, expected[0], strict=True):
                torch.testing.assert_close(mine.as_tensor(), right.as_tensor())
            assert [bool(p >= 0.4) for p in probabilities] == [False, True, True, True, False]
        else:
            assert all(not m.any() for m in maps)
        if known is not None:
            assert torch.equal(probabilities[~known.isnan()], known[~known.isnan()])


def test_probabilities_must_fit_the_slices():
    scan, _ = toy_scan()
    for wrong in (torch.ones(4), torch.ones(6)):
        with pytest.raises(ValueError, match="5 slices need the same number of probabilities, not"):
            ShallowFeatureCAM([Spot(False)])(scan, wrong)
    with pytest.raises(ValueError, match="5 slices need the same number of probabilities, not 3"):
        SpatialContextFusiond("image", "p")({"image": scan, "p": torch.ones(3)})


def test_slices_are_found_whichever_axis_they_run_along():
    scan, _ = toy_scan()

    def chain(image):
        steps = [
            ShallowFeatureCAMd("image", [Spot(False)], gate=0.4),
            ClassActivationMapd("image", Spot(False), ["layer2"], batch_size=2),
        ]
        item = Compose(steps)({"image": image})
        own = item["image_cam_1"]
        item = ShallowFeatureCAMd("image", [Spot(False)], gate=0.4)({"image": image})
        item = SpatialContextFusiond(["image_cam_1", "image_cam_2"], "image_probability", gate=0.4)(item)
        item = LayerAggregationd(["image_cam_1", "image_cam_2"], "image", "mask", threshold=0.3)(item)
        return own, item["mask"], DenseCRFd("mask", "image", iterations=2)(item)["mask"]

    expected = chain(scan)
    for axis in (0, 1):
        turned = MetaTensor(
            scan.as_tensor().movedim(3, 1 + axis),
            affine=scan.affine[:, [*np.insert([0, 1], axis, 2), 3]],
        )
        for mine, right in zip(chain(turned), expected, strict=True):
            torch.testing.assert_close(mine.as_tensor().movedim(1 + axis, 3), right.as_tensor())
            assert torch.equal(mine.affine, turned.affine)


def test_maps_can_be_scaled_at_the_size_of_the_slice():
    scan, _ = toy_scan()
    network = Spot(False)
    late = ShallowFeatureCAM([network], gate=0.4)(scan)[0]
    early = ShallowFeatureCAM([network], gate=0.4, upsample="first")(scan)[0]
    assert early[0].shape == scan.shape and late[0].shape == (1, 16, 16, 5)
    with pytest.raises(ValueError, match="upsample must be one of last, first, not 'never'"):
        ShallowFeatureCAM([network], upsample="never")


def test_other_methods_take_the_same_way():
    scan, _ = toy_scan()
    network = Spot(False)
    found = ShallowFeatureCAM([network], ["layer2"], gate=0.4, method="grad_cam", amplify_scale=0)(scan)[0]
    assert len(found) == 1
    with CAMExtractor(network, ["layer2"], "grad_cam") as extractor:
        expected = min_max(extractor(scan.as_tensor()[..., 2][None])[1]["layer2"])
    torch.testing.assert_close(found[0].as_tensor()[..., 2], expected)
    lifted = ShallowFeatureCAM([network], ["layer2"], gate=0.4, method="grad_cam")(scan)[0]
    torch.testing.assert_close(lifted[0].as_tensor()[..., 2], amplify(expected))
    with pytest.raises(ValueError, match="2 networks need one list of layers each, not 1"):
        ShallowFeatureCAM([network, network], [["layer1"]])


def test_any_method_on_any_network_in_a_compose():
    scan, _ = toy_scan()
    network = Spot(False)
    item = Compose([ClassActivationMapd("image", network, ["layer1", "layer2"], method="layer_cam", batch_size=2)])(
        {"image": scan}
    )
    assert item["image_cam_1"].shape == item["image_cam_2"].shape == scan.shape
    assert torch.equal(item["image_cam_1"].affine, scan.affine)
    with CAMExtractor(network, ["layer2"]) as extractor:
        raw = extractor(scan.as_tensor()[..., 3][None])[1]["layer2"]
    torch.testing.assert_close(item["image_cam_2"].as_tensor()[..., 3], min_max(upsample(raw, (64, 64))))
    small = ClassActivationMap(network, ["layer2"], normalize=False, resize=False)(scan.as_tensor()[..., 3])
    torch.testing.assert_close(small[0], raw)
    solid = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2)
    )
    volume_map = ClassActivationMap(solid, ["1"], "cam", spatial_dims=3)(torch.rand(1, 6, 7, 8))
    assert volume_map[0].shape == (1, 6, 7, 8) and volume_map[0].max() == 1
    with pytest.raises(ValueError, match="a 3-D network cannot take an image of shape"):
        ClassActivationMap(solid, ["1"], spatial_dims=3)(torch.rand(1, 6, 7))
    with pytest.raises(ValueError, match="layer 'layer9' is not in Spot"):
        ClassActivationMapd("image", network, ["layer9"])


def test_aggregation_of_one_layer_or_the_mean():
    reference = volume((1, 8, 8, 3))
    maps = [torch.rand(1, 4, 4, 3), torch.rand(1, 2, 2, 3)]
    large = [upsample(m[0].movedim(2, 0), (8, 8)).movedim(0, 2) for m in maps]
    for layers, expected in (("1", large[0]), (2, large[1]), ("mean", sum(large) / 2), ("both", torch.maximum(*large))):
        score = LayerAggregation(None, layers=layers)(maps, reference)
        torch.testing.assert_close(score.as_tensor()[0], expected)
        mask = LayerAggregation(0.5, layers=layers)(maps, reference)
        assert torch.equal(mask.as_tensor()[0], (expected > 0.5).float())
    item = LayerAggregationd(["a", "b"], "image", "mask", 0.5, score_key="score")(
        {"a": maps[0], "b": maps[1], "image": reference}
    )
    assert torch.equal(item["mask"].as_tensor(), (item["score"].as_tensor() > 0.5).float()) and "a" not in item
    with pytest.raises(ValueError, match="layers must be one of both, 1, 2, mean, not '3'"):
        LayerAggregation(layers=3)


def test_a_scan_without_positive_slices_gets_an_empty_mask():
    scan = volume((1, 32, 32, 3)) * 0.2
    chain = Compose(
        [
            ShallowFeatureCAMd("image", [Spot(False)]),
            SpatialContextFusiond(["image_cam_1", "image_cam_2"], "image_probability"),
            LayerAggregationd(["image_cam_1", "image_cam_2"], "image", "mask"),
            DenseCRFd("mask", "image"),
        ]
    )
    mask = chain({"image": scan})["mask"]
    assert mask.shape == scan.shape and mask.sum() == 0


def test_gates():
    item = {
        "image": MetaTensor(
            torch.zeros(1, 4, 4, 3), affine=torch.eye(4), meta={"original_affine": np.diag([1, 1, -1, 1])}
        ),
        "pred": torch.tensor([0.9, 0.2, 0.8]),
        "slice_labels": [0, 1, 1],  # stored upside down
    }
    gated = {by: GateSlicesd("pred", by=by)(item)["pred"].tolist() for by in ("prediction", "label", "both")}
    assert gated["prediction"] == pytest.approx([0.9, 0.2, 0.8])
    assert gated["label"] == [1, 1, -1] and gated["both"] == pytest.approx([0.9, 0.2, -1])  # below a gate of 0 too
    with pytest.raises(IchsegError, match="needs key 'slice_labels'"):
        GateSlicesd("pred", by="label")({k: v for k, v in item.items() if k != "slice_labels"})


def test_intracranial_and_implants_on_a_phantom(phantoms):
    scan = load_datalist(phantoms / "datalist.json", [3])[0]
    image = loading(96)({"image": scan["image"]})["image"]
    everything = {"mask": torch.ones_like(image), "image": image}
    kept = KeepIntracraniald("mask")(everything)["mask"]
    assert 0.1 < float(kept[..., 4].mean()) < 0.7
    assert torch.equal(KeepIntracraniald("mask", enabled=False)(everything)["mask"], everything["mask"])
    item = {"image": image[..., 4].as_tensor(), "label": torch.tensor(0)}
    drawn = [RandImplantHemorrhaged(prob=1.0).set_random_state(seed)(item) for seed in range(8)]
    assert any(int(d["label"]) == 1 and not torch.equal(d["image"], item["image"]) for d in drawn)
    assert all(int(d["label"]) == 1 or torch.equal(d["image"], item["image"]) for d in drawn)
    masked = RandImplantHemorrhaged(prob=1.0).set_random_state(0)({**item, "label": torch.zeros(1, 96, 96)})["label"]
    assert masked.shape == (1, 96, 96)
    bleeding = {"image": item["image"], "label": torch.tensor(1)}
    assert torch.equal(RandImplantHemorrhaged(prob=1.0)(bleeding)["image"], item["image"])


def test_companion_keys_are_asked_for_when_they_are_needed():
    """With nothing to do, nothing is missing; else the option and the key are named."""
    assert DenseCRFd("pred", allow_missing_keys=True)({}) == {}
    mask = torch.ones(1, 4, 4, 2)
    assert torch.equal(KeepIntracraniald("pred", enabled=False)({"pred": mask})["pred"], mask)
    with pytest.raises(KeyError, match="KeepIntracraniald: image_key 'image' is not in the data"):
        KeepIntracraniald("pred")({"pred": mask})


def test_options_stand_where_the_signature_says():
    class Own(HeadCropd):
        def __init__(self, keys, strength):
            super().__init__(keys, 64, "nearest")
            self.strength = strength

    assert list(inspect.signature(HeadCropd).parameters)[:4] == ["keys", "size", "mode", "image_key"]
    assert list(inspect.signature(Own).parameters) == ["keys", "strength"]
    own = Own("image", 3)
    assert (own.transform.size, own.transform.mode, own.strength) == (64, "nearest", 3)


@pytest.mark.parametrize("highest", [70.0, 80.0, 95.0])
def test_bone_that_a_narrow_window_clipped_is_white_again(highest):
    scan = torch.full((1, 40, 40, 3), 30.0)
    scan[:, :6] = 900.0
    scan[:, 20:24, 20:24] = highest - 5  # blood
    clipped = scan.clamp(-10, highest)
    made = RestoreBone()(clipped)
    assert (made[:, :6] == 100).all() and torch.equal(made[:, 6:], scan[:, 6:])
    as_meta = RestoreBoned("image", top=90)({"image": MetaTensor(clipped, affine=torch.eye(4))})["image"]
    assert isinstance(as_meta, MetaTensor) and float(as_meta.max()) == max(90.0, highest)


def test_bone_stays_where_nothing_was_clipped():
    scan = torch.full((1, 40, 40, 3), 30.0)
    whole = scan.clone()
    whole[:, :6] = 900.0
    few = scan.clone()
    few[:, 3, 3] = 80.0  # a bright spot is no skull
    for image in (whole, few, scan, torch.zeros(1, 4, 4, 1), whole.clamp(-10, 100)):
        assert RestoreBone()(image) is image
    assert RestoreBone(enabled=False)(whole.clamp(-10, 80)).max() == 80
