"""The recommended preset, piece by piece: what goes in, what learns, what comes out."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import segmenter_file
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation
from PIL import Image
from scipy import ndimage
from torch import nn

from ichseg.anatomy import head_box, intracranial_mask
from ichseg.bundle import BundleParts, config_values, run_bundle
from ichseg.cli import main
from ichseg.context import fuse
from ichseg.data import PackedSlices, load_datalist, pack_masks, pack_scans
from ichseg.data.packed import gray, hounsfield, windowed
from ichseg.errors import IchsegError, one_line
from ichseg.io import write_volume
from ichseg.networks import (
    ContextUNet,
    NetworkEnsemble,
    SegmenterSettings,
    load_weights,
    read_settings,
    segmenter,
    slice_scores,
    suspicion,
    trained_segmenter,
)
from ichseg.presets import Plan, cross_validate, train_fold
from ichseg.presets.fitting import HOLE_MM2, SPECK_ML, negatives_touched, platt, touched_slices
from ichseg.presets.join import join_members
from ichseg.report.case import case_pictures
from ichseg.report.gallery import Judged, slice_gallery, to_the_back
from ichseg.synthetic.implants import field_volume, implant_pool
from ichseg.synthetic.phantom import phantom_scan, prepare_phantom
from ichseg.training import (
    Augmentation,
    ContextLoss,
    MovingAverage,
    PrepareMixture,
    SliceMixture,
    judged_pool,
    warm_cosine,
)
from ichseg.training.augment import _box
from ichseg.transforms import (
    BrainWindow,
    HeadCrop,
    HeadCropd,
    NeighborSlices,
    SliceScoredProbability,
    head_ct_loader,
)

SIZE = 64


@pytest.fixture(scope="module")
def phantom():
    scan = phantom_scan(5, ("IPH",), size=128, slices=10)
    return scan.image.astype(np.float32), scan.label, scan.affine


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    prepare_phantom(folder / "data", scans=10, seed=2, size=96, slices=8)
    return folder / "data" / "datalist.json"


@pytest.fixture(scope="module")
def reading():
    return BundleParts("ich_segmentation", "train_recommended.yaml", {"size": SIZE})["preprocessing"]


@pytest.fixture(scope="module")
def packed(cohort, reading, tmp_path_factory):
    return pack_scans(load_datalist(cohort), reading, tmp_path_factory.mktemp("pack") / "slices.npz", SIZE)


# --- the head, cut out ----------------------------------------------------------------------------------------------
def test_the_box_holds_the_head_wherever_it_lies(phantom):
    image, _, _ = phantom
    slices = np.moveaxis(image, 2, 0)
    row, column, side = head_box(slices)
    dense = slices > 25
    inside = dense[
        :, round(row - side / 2) : round(row + side / 2), round(column - side / 2) : round(column + side / 2)
    ]
    assert inside.sum() > 0.98 * dense.sum() and side < 128
    moved = np.pad(slices, ((0, 0), (30, 0), (0, 20)), constant_values=-1000)
    there = head_box(moved)
    assert there[0] == pytest.approx(row + 30, abs=3) and there[1] == pytest.approx(column, abs=3)
    assert there[2] == pytest.approx(side, rel=0.05)
    assert head_box(np.full((3, 40, 60), -1000.0)) == (20, 30, 60)  # nothing dense: all of it


def test_a_cut_head_comes_back_to_its_grid(phantom):
    image, _, affine = phantom
    volume = MetaTensor(torch.from_numpy(image)[None], affine=torch.as_tensor(affine))
    crop = HeadCrop(160)
    cut = crop(volume)
    assert cut.shape == (1, 160, 160, 10)
    back = crop.inverse(cut)
    np.testing.assert_allclose(np.asarray(back.affine), affine)
    assert back.shape == volume.shape
    image = image.clip(-20, 100)  # as it went in
    # Finer pixels than the scan's lose nothing but a little sharpness; one pixel beside, half the noise would be lost.
    brain = np.stack([intracranial_mask(image[..., i]) for i in range(10)], axis=-1)
    inner = ndimage.binary_erosion(brain, np.ones((5, 5, 1)))
    assert np.abs(back.numpy()[0] - image)[inner].mean() < 0.5 * np.abs(np.roll(image, 1, 0) - image)[inner].mean()


def test_the_affine_says_where_cut_voxels_lie(phantom):
    image, _, affine = phantom
    blob = np.zeros_like(image)
    blob[60:66, 70:76, 4:6] = 1
    pair = {"image": MetaTensor(torch.from_numpy(image)[None], affine=torch.as_tensor(affine)),
            "label": MetaTensor(torch.from_numpy(blob)[None], affine=torch.as_tensor(affine))}  # fmt: skip
    cut = HeadCropd(["image", "label"], 192, mode=["bilinear", "nearest"])(pair)
    middle = np.argwhere(cut["label"][0].numpy() > 0).mean(axis=0)
    there = np.asarray(cut["label"].affine) @ [*middle, 1]
    expected = affine @ [62.5, 72.5, 4.5, 1]
    np.testing.assert_allclose(there, expected, atol=0.6)


def test_bone_does_not_bleed_into_brain(phantom):
    image, _, affine = phantom
    volume = MetaTensor(torch.from_numpy(image)[None], affine=torch.as_tensor(affine))
    brain = np.stack([intracranial_mask(image[..., i]) for i in range(10)], axis=-1)
    inside = MetaTensor(torch.from_numpy(brain.astype(np.float32))[None], affine=torch.as_tensor(affine))
    where = HeadCrop(64, "nearest")(inside, volume)[0] > 0
    wide, narrow = (HeadCrop(64, clip=clip)(volume)[0].clamp(-20, 100) for clip in (None, (-20, 100)))
    suspicious = [int(((one > 60) & where).sum()) for one in (wide, narrow)]
    assert suspicious[1] < suspicious[0]


@pytest.mark.parametrize("kind", [torch.int16, torch.uint16, torch.float64])
def test_the_head_of_integers_is_that_of_floats(kind):
    volume = (torch.rand(1, 40, 50, 3, generator=torch.Generator().manual_seed(0)) * 90).round()
    assert torch.equal(HeadCrop(32)(volume.to(kind)), HeadCrop(32)(volume))


def test_slices_may_run_along_any_axis(phantom):
    image, _, affine = phantom
    turned = np.moveaxis(image, 2, 0)
    columns = affine[:, [2, 0, 1, 3]]
    volume = MetaTensor(torch.from_numpy(turned.copy())[None], affine=torch.as_tensor(columns))
    crop = HeadCrop(96)
    cut = crop(volume)
    assert cut.shape == (1, 10, 96, 96) and crop.inverse(cut).shape == volume.shape


def test_brain_is_found_where_a_scan_was_clipped_at_zero(phantom):
    image, _, _ = phantom
    whole = intracranial_mask(image[..., 5])
    clipped = intracranial_mask(image[..., 5].clip(0, 255))
    assert whole.sum() > 1000 and (whole ^ clipped).sum() < 0.03 * whole.sum()


# --- neighbors -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("step", "reach"), [(5.0, 1), (2.5, 2), (1.0, 5), (10.0, 1)])
def test_neighbors_are_millimeters_away(step, reach):
    values = torch.arange(12.0).expand(1, 2, 2, 12)
    for way in (1, -1):
        volume = MetaTensor(values.clone(), affine=torch.diag(torch.tensor([1.0, 1.0, way * step, 1.0])))
        own, below, above = NeighborSlices(5.0)(volume)[:, 0, 0].tolist()
        assert own == list(range(12))
        assert below[6] == 6 - way * reach and above[6] == 6 + way * reach
        ends = (below[0], above[11]) if way > 0 else (above[0], below[11])
        assert ends == (0, 11)
    single = NeighborSlices()(MetaTensor(torch.rand(1, 4, 4, 1), affine=torch.eye(4)))
    assert torch.equal(single[0], single[1]) and torch.equal(single[0], single[2])


# --- the network ------------------------------------------------------------------------------------------------------
def test_network_scores_slices_and_pixels():
    torch.manual_seed(0)
    network = ContextUNet(3, (4, 8, 16)).eval()
    logits = network(torch.rand(2, 3, 32, 48))
    assert logits.shape == (2, 3, 32, 48) and (logits[:, 0] == 0).all()
    assert (logits[:, 2].flatten(1).std(dim=1) == 0).all()
    assert logits[:, 1].mean() < -2  # rare from the start


def test_an_ensemble_is_the_mean_and_sees_no_difference_between_sides():
    torch.manual_seed(1)
    members = [ContextUNet(3, (4, 8, 16)).eval() for _ in range(2)]
    x = torch.rand(1, 3, 16, 16)
    plain = NetworkEnsemble(members, flip=False).eval()(x)
    torch.testing.assert_close(plain, (members[0](x) + members[1](x)) / 2)
    both = NetworkEnsemble(members, flip=True).eval()
    torch.testing.assert_close(both(x.flip(2)), both(x).flip(2), atol=1e-5, rtol=1e-4)


def test_suspicion_is_the_mean_of_the_largest():
    pixels = torch.arange(100.0).reshape(1, 10, 10)
    assert suspicion(pixels, 0.05).item() == pytest.approx(97)
    logits = torch.stack([torch.zeros(10, 10), pixels[0], torch.full((10, 10), 7.0)])[None]
    assert slice_scores(logits, 0.05).item() == pytest.approx((97 + 7) / 2)


# --- probability ------------------------------------------------------------------------------------------------------
def test_probability_is_that_of_the_slice_times_that_of_the_pixel():
    logits = torch.zeros(3, 4, 4, 3)
    logits[1] = -6.0
    logits[1, 1, 1, 1] = 4.0
    logits[2, ..., 1] = 2.0
    made = SliceScoredProbability(slope=0.5, offset=0.25, share=1 / 16)(logits)
    alone = torch.tensor([(-6 + 0) / 2, (4 + 2) / 2, (-6 + 0) / 2])
    fused = fuse(alone[:, None, None])[:, 0, 0]
    expected = torch.sigmoid(0.5 * fused + 0.25) * logits[1, 1, 1].sigmoid()
    torch.testing.assert_close(made[0, 1, 1], expected)
    assert (made <= logits[1].sigmoid()[None] + 1e-6).all()
    with pytest.raises(ValueError, match="not 2 channels"):
        SliceScoredProbability()(logits[:2])


def test_platt_scaling_finds_the_line_that_made_the_labels():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, 20000)
    labels = rng.uniform(size=scores.size) < 1 / (1 + np.exp(-(1.3 * scores - 0.8)))
    slope, offset = platt(scores, labels)
    often = np.log(labels.mean() / (1 - labels.mean()))  # both labels weigh the same: the offset forgets the prevalence
    assert slope == pytest.approx(1.3, abs=0.06) and offset == pytest.approx(-0.8 - often, abs=0.06)
    slope, offset = platt(np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True]))
    assert np.isfinite([slope, offset]).all() and slope > 0


def test_the_score_is_fitted_to_touch_few_slices_labeled_negative(packed, tmp_path, monkeypatch):
    from ichseg.presets import fitting

    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.normal(size=packed.gray.shape), (0.7, 3, 3))
    pixels = ((smooth - smooth.min()) / np.ptp(smooth)) ** 2
    scores = np.where(packed.labels > 0, 2.0, -2.0) + rng.normal(size=len(packed))
    monkeypatch.setattr(fitting, "score_scans", lambda *_: (scores, pixels))
    network = ContextUNet(channels=(4, 8, 8))
    state = {f"members.0.{name}": value for name, value in network.state_dict().items()}
    weights = segmenter_file(tmp_path / "model.pt", state=state, channels=[4, 8, 8], suspicious_share=0.01)
    before = read_settings(weights, SegmenterSettings)
    fitting.fit_score(weights, packed, torch.device("cpu"))
    fitted = read_settings(weights, SegmenterSettings)
    bleeds = 1 / (1 + np.exp(-(fitted.score_slope * scores + fitted.score_offset)))
    found = [touched_slices(pixels * bleeds[:, None, None] > t, packed) for t in fitting.THRESHOLDS]
    assert all((more >= less).all() for more, less in pairwise(found))  # which is why the search may halve its range
    share = [negatives_touched(touched, packed) for touched in found]
    place = fitting.THRESHOLDS.index(fitted.threshold)
    assert share[place] <= fitting.MOST_NEGATIVES < share[place - 1]
    assert (fitted.min_volume_ml, fitted.fill_holes_mm2) == (SPECK_ML, HOLE_MM2)
    kept = ("architecture", "size", "channels", "members", "window_level", "window_width", "suspicious_share")
    assert all(getattr(fitted, name) == getattr(before, name) for name in kept)
    segmenter("context", [4, 8, 8]).load_state_dict(torch.load(weights, weights_only=True))
    with pytest.raises(IchsegError, match="with and without hemorrhage"):
        fitting.fit_score(weights, replace(packed, labels=np.zeros_like(packed.labels)), "cpu")


def test_one_odd_scan_does_not_set_the_threshold_for_all(packed):
    negative = packed.labels <= 0
    first = packed.scan(0)
    touched = np.zeros(len(packed), bool)
    touched[first] = True  # a head that is marked from end to end
    share = negative[first].sum() / negative.sum()
    assert negatives_touched(touched, packed) == pytest.approx(0.1 * share)
    assert negatives_touched(np.ones_like(touched), packed) == pytest.approx(0.1)
    assert negatives_touched(~negative, packed) == 0.0, "positive slices do not count"


# --- the pack ---------------------------------------------------------------------------------------------------------
def test_eight_bits_keep_a_quarter_of_a_hounsfield_unit():
    values = np.linspace(-20, 100, 977, dtype=np.float32)
    assert np.abs(hounsfield(gray(values)) - values).max() < 0.24
    assert gray(np.array([-1000.0, 3000.0])).tolist() == [0, 255]
    seen = windowed(torch.from_numpy(gray(np.array([-20.0, 0, 50, 100]))), 50, 100)
    torch.testing.assert_close(seen, torch.tensor([0, 0, 0.5, 1.0]), atol=0.003, rtol=0)


def test_packed_slices_keep_labels_and_neighbors(packed, cohort):
    scans = load_datalist(cohort)
    assert packed.cases == [s["case"] for s in scans] and packed.gray.shape == (80, SIZE, SIZE)
    for number, scan in enumerate(scans):
        where = packed.scan(number)
        by_file = np.empty(8, int)
        by_file[packed.stored[where]] = packed.labels[where]
        assert by_file.tolist() == scan["slice_labels"]
    assert packed.with_neighbors(0) == (0, 0, 1) and packed.with_neighbors(7) == (7, 6, 7)
    assert packed.with_neighbors(8) == (8, 8, 9)
    thin = replace(packed, step_mm=packed.step_mm / 2.5)
    assert thin.with_neighbors(3) == (3, 1, 5) and thin.with_neighbors(1) == (1, 1, 3)
    assert thin.with_neighbors(6) == (6, 4, 6)
    some = packed.of_folds([1, 3])
    assert set(some.folds.tolist()) == {1, 3} and len(some) == 32
    with pytest.raises(IchsegError, match=r"no packed scan in fold\(s\) \[7\]"):
        packed.of_folds([7])
    item = PackedSlices(packed)[3]
    assert item["image"].shape == (3, SIZE, SIZE) and item["image"].min() >= 0 and item["image"].max() <= 1


def test_a_pack_is_read_again_unless_scans_or_settings_changed(cohort, reading, tmp_path):
    scans, file, calls = load_datalist(cohort)[:2], tmp_path / "slices.npz", []

    class Counted:
        def __init__(self, steps):
            self.described = lambda: steps

        def __call__(self, item):
            calls.append(item["case"])
            return self.described()(item)

    counted = Counted(reading)
    first = pack_scans(scans, counted, tmp_path, SIZE)
    again = pack_scans(scans, counted, tmp_path, SIZE)
    assert len(calls) == 2 and np.array_equal(first.gray, again.gray)
    pack_scans(scans, counted, tmp_path, "other")
    assert len(calls) == 4
    file.write_bytes(file.read_bytes()[:1000])
    pack_scans(scans, counted, tmp_path, "other")
    assert len(calls) == 6
    os.utime(scans[0]["image"], (1, 1))  # perhaps another scan of the same size
    pack_scans(scans, counted, tmp_path, "other")
    assert len(calls) == 8
    crop = {"size": SIZE, "preprocessing::transforms::0::size_limit_gib": 3}
    pack_scans(
        scans,
        Counted(BundleParts("ich_segmentation", "train_recommended.yaml", crop)["preprocessing"]),
        tmp_path,
        "other",
    )
    assert len(calls) == 10, "another step"
    scans[0]["slice_labels"] = [0, 1]
    with pytest.raises(IchsegError, match="8 slices, but"):
        pack_scans(scans, counted, tmp_path, SIZE)


# --- implants ---------------------------------------------------------------------------------------------------------
def test_a_pool_pastes_implants_into_slices_without_hemorrhage(packed, tmp_path):
    pool = implant_pool(packed, per_scan=2, seed=3, folder=tmp_path)
    assert len(pool) > 20
    brighter = []
    for place in range(0, len(pool), 3):
        index = pool.index[place][1]
        assert packed.labels[index] == 0
        image, mask = pool[place]
        before = packed.gray[list(packed.with_neighbors(index))]
        assert mask.any() and image.shape == before.shape
        brighter.append(hounsfield(image[0])[mask].mean() - hounsfield(before[0])[mask].mean())
        assert (image[0] == before[0]).mean() > 0.4
    assert np.median(brighter) > 10 and min(brighter) > -40  # chronic collections are darker than brain
    again = implant_pool(packed, per_scan=2, seed=3, folder=tmp_path)
    assert again.index == pool.index
    assert all(np.array_equal(a, b) for k in (0, 5) for a, b in zip(pool[k], again[k], strict=True))
    apart = implant_pool(packed, per_scan=2, seed=3, workers=2)
    assert apart.index == pool.index and np.array_equal(apart[7][0], pool[7][0])
    operated = implant_pool(packed, per_scan=2, seed=3, folder=tmp_path, surgery_share=1.0)

    def bone_lost(implants):
        before = (int((implants.packed.gray[slice_number] == 255).sum()) for _, slice_number in implants.index)
        return sum(before) - sum(int((implants[k][0][0] == 255).sum()) for k in range(len(implants)))

    opened = [bone_lost(implants) for implants in (pool, operated)]
    assert opened[1] > opened[0] + 20 and len(operated) > 20  # bone is gone, and what was kept is not read
    # A part of the folds gets the same implants as all of them.
    some = implant_pool(packed.of_folds([1, 4]), per_scan=2, seed=3)
    folds = [int(packed.folds[pool.implants[number].scan]) for number, _ in pool.index]
    assert len(some) == sum(fold in (1, 4) for fold in folds)
    first = folds.index(1)
    assert np.array_equal(some[0][0], pool[first][0]) and np.array_equal(some[0][1], pool[first][1])
    with pytest.raises(IchsegError, match="no room"):
        type(pool)(packed, [])


def test_the_other_family_of_implants_is_bright_and_inside(phantom):
    _, _, affine = phantom
    healthy = phantom_scan(5, (), size=128, slices=10).image.astype(np.float32)
    slices = np.moveaxis(healthy, 2, 0)
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0)[[2, 0, 1]])
    made = [m for seed in range(12) if (m := field_volume(slices, spacing, np.random.default_rng(seed))) is not None]
    assert len(made) >= 4 and {m[2] for m in made} <= {"EDH", "IPH"}
    for drawn, mask, _ in made:
        brain = np.stack([intracranial_mask(one) for one in slices])
        assert not (mask & ~brain).any() and drawn[mask].mean() > slices[mask].mean() + 3
        assert np.abs(drawn - slices)[~mask].mean() < 1
    assert field_volume(np.full((4, 64, 64), -1000.0), (5, 1, 1), np.random.default_rng(0)) is None


# --- batches ----------------------------------------------------------------------------------------------------------
def test_batches_hold_the_three_kinds_in_their_shares(packed):
    pool = implant_pool(packed, per_scan=1)
    torch.manual_seed(4)
    batches = list(SliceMixture(packed, pool, batch_size=8, batches=3, implant_share=0.25, positive_share=0.375))
    assert len(batches) == 3
    for batch in batches:
        assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (8, 3, SIZE, SIZE)
        assert batch["label"].tolist() == [1, 1, 0, 0, 0, 1, 1, 1]
        kinds = [sorted(set(one.unique().tolist())) for one in batch["mask"]]
        assert kinds[:5] == [[0, 1]] * 2 + [[0]] * 3 and all(kind in ([-1], [-1, 0]) for kind in kinds[5:])
    torch.manual_seed(4)
    operated = next(iter(SliceMixture(packed, pool, 8, 3, 0.25, 0.375, surgery_share=1.0)))
    changed = [not torch.equal(a, b) for a, b in zip(operated["image"], batches[0]["image"], strict=True)]
    assert any(changed[2:5]) and not any(changed[:2]) and not operated["mask"][2:5].any()
    torch.manual_seed(4)
    again = next(iter(SliceMixture(packed, pool, 8, 3, 0.25, 0.375)))
    assert torch.equal(again["image"], batches[0]["image"])
    with pytest.raises(IchsegError, match="leaves no slice without hemorrhage"):
        SliceMixture(packed, pool, 8, 1, 0.5, 0.5)
    bleeding = packed.of_folds(None)
    bleeding.labels[:] = 1
    with pytest.raises(IchsegError, match="no training slice without hemorrhage"):
        SliceMixture(bleeding, pool, 8, 1)


def test_surgery_sees_neighbors_from_below_upward_and_puts_them_back(packed, monkeypatch):
    seen = []

    def kept(volume, mask, spacing, rng, back):
        seen.append(volume)
        return volume + np.arange(3, dtype=np.float32)[:, None, None] * 10, mask

    monkeypatch.setattr("ichseg.training.mixture.draw_surgery", kept)
    mixture = SliceMixture(packed, implant_pool(packed, per_scan=1), 8, 1, 0.25, 0.375, surgery_share=1.0)
    index = int(packed.starts[0]) + 3
    place, below, above = packed.with_neighbors(index)
    image = packed.gray[[place, below, above]]
    made = mixture._operated(image, index, np.random.default_rng(0))
    assert np.array_equal(seen[0], hounsfield(packed.gray[[below, place, above]]))
    dark = (image > 40).all(axis=0) & (image < 200).all(axis=0)  # neither end of the gray values
    added = [(hounsfield(after) - hounsfield(before))[dark].mean() for after, before in zip(made, image, strict=True)]
    assert dark.any() and added == pytest.approx([10, 0, 20], abs=0.3)


# Nothing moves and nothing changes.
STILL = dict.fromkeys(
    ("turn", "scale", "stretch", "shift", "flip", "gain", "bias", "noise", "kernel", "clip", "alone"), 0.0
)


def test_noise_of_two_grains_and_kernels_of_two_kinds():
    torch.manual_seed(0)
    flat, nothing = torch.full((200, 3, 24, 24), 0.5), torch.zeros(200, 1, 24, 24)
    noise = Augmentation(**{**STILL, "noise": 0.05}, glow=0)(flat.clone(), nothing)[0] - 0.5
    noise = noise[:, 0, 2:-2, 2:-2]
    noisy = noise[noise.std(dim=(1, 2)) > 0.005]
    assert 60 < len(noisy) < 110 and 0.02 < float(noisy.std(dim=(1, 2)).mean()) < 0.03
    alike = (noisy[:, 1:] * noisy[:, :-1]).mean(dim=(1, 2)) / noisy.square().mean(dim=(1, 2))
    assert 0.3 < (alike > 0.4).float().mean() < 0.7 and ((alike.abs() < 0.3) | (alike > 0.4)).float().mean() > 0.95
    edge = flat.clone()
    edge[..., 12:] = 0.7
    changed = Augmentation(**{**STILL, "kernel": 1.2}, glow=0)(edge.clone(), nothing)[0]
    step = (changed - edge)[:, 0, 12, 11]
    assert (step < -0.01).any() and (step > 0.01).any() and 60 < (step.abs() < 1e-4).sum() < 140
    assert (changed[..., :10] - 0.5).abs().max() < 1e-4


@pytest.mark.parametrize("reach", [3, 7, 11])
def test_boxes_are_those_of_torch(reach):
    image = torch.rand(2, 3, 40, 24)
    torch.testing.assert_close(_box(image, reach), torch.nn.functional.avg_pool2d(image, reach, 1, reach // 2))


def test_images_and_masks_move_alike_and_unknown_stays_unknown():
    torch.manual_seed(0)
    image = torch.zeros(6, 3, 64, 64)
    image[:, :, 20:34, 30:50] = 0.8
    mask = (image[:, :1] > 0.5).float()
    mask[3] = -1
    moved, masks = Augmentation(gain=0, bias=0, noise=0, kernel=0, glow=0, clip=0)(image, mask)
    assert (masks[3] == -1).float().mean() > 0.8 and set(masks[[0, 1, 2, 4, 5]].unique().tolist()) == {0, 1}
    for i in (0, 1, 2, 4, 5):
        overlap = ((moved[i, 0] > 0.4) & (masks[i, 0] > 0)).sum() / ((moved[i, 0] > 0.4) | (masks[i, 0] > 0)).sum()
        assert overlap > 0.9
        assert not torch.equal(masks[i], mask[i])
    same = Augmentation(amount=0, flip=0, clip=0, alone=0)(image.clone(), mask)
    torch.testing.assert_close(same[0], image, atol=1e-5, rtol=0)
    assert torch.equal(same[1], mask)
    mirrored = Augmentation(amount=0, flip=1, clip=0, alone=0)(image.clone(), mask)[0]
    torch.testing.assert_close(mirrored, image.flip(2), atol=1e-5, rtol=0)  # left and right are the first axis
    head = torch.full((40, 3, 64, 64), 0.35)
    head[..., :8] = 1.0  # bone
    shone = Augmentation(**STILL, glow=0.25)
    rise = (shone(head.clone(), torch.zeros(40, 1, 64, 64))[0] - head)[:, 0].mean(dim=1)
    assert (
        (rise[:, 8] > 0.02).any() and (rise[:, 8] == 0).any() and (rise[:, 8].abs() >= rise[:, 12].abs() - 1e-6).all()
    )
    assert (rise[:, 40:].abs() < 1e-6).all() and (rise[:, :8] <= 0).all()
    other = torch.rand(2, 3, 8, 8)
    lonely = Augmentation(amount=0, flip=0, clip=0, alone=1)(other, torch.zeros(2, 1, 8, 8))[0]
    torch.testing.assert_close(lonely, other[:, :1].expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


# --- learning ---------------------------------------------------------------------------------------------------------
def test_a_positive_slice_is_unknown_inside_the_skull_only(packed):
    pool = implant_pool(packed, per_scan=2, seed=3)
    mixture = SliceMixture(packed, pool, 24, 1, positive_share=0.5)
    batch = next(iter(mixture))
    images, masks = batch["image"][batch["label"] == 1, 0], batch["mask"][batch["label"] == 1, 0]
    unknown = [n for n, mask in enumerate(masks) if mask.min() < 0]
    assert len(unknown) == 12 and len(mixture._inside) <= 12
    for n in unknown:
        soft = (images[n] > 60) & (images[n] < 200)
        assert 0.1 < (masks[n] < 0).float().mean() < 0.8 and (masks[n][0] == 0).all()
        assert (masks[n][soft] < 0).float().mean() > 0.5


def test_suspicion_is_looked_for_where_something_is_unknown():
    logits = torch.full((2, 3, 16, 16), -5.0)
    logits[:, 0] = 0
    logits[:, 1, :4] = 6.0  # most suspicious in a part that is known to be none
    mask = torch.full((2, 1, 16, 16), -1.0)
    mask[:, :, :4] = 0
    only_instances = ContextLoss(cross_entropy=0, dice=0, score=0, instances=1, share=0.1)
    told = only_instances(logits, {"mask": mask, "label": torch.ones(2)})
    assert told > 4
    assert only_instances(logits, {"mask": torch.full_like(mask, -1.0), "label": torch.ones(2)}) < 0.1
    assert only_instances(logits, {"mask": torch.zeros_like(mask), "label": torch.ones(2)}) < 0.1


def test_easy_implants_are_thinned_out(packed, tmp_path, monkeypatch):
    pool = implant_pool(packed, per_scan=2, seed=3)
    assert judged_pool(pool, packed) is pool
    weights = segmenter_file(tmp_path / "judge.pt", channels=[4, 8, 8], size=SIZE)
    all_of_it = judged_pool(pool, packed, weights, quantile=1.0, keep=1.0)
    assert all_of_it.index == pool.index and all_of_it is not pool

    def brightness(images, *_):  # a judge for which more bright pixels are more hemorrhage
        return np.array([(image[0] > 180).mean() for image in images])

    monkeypatch.setattr("ichseg.training.judge._scores", brightness)
    scores = brightness([pool[k][0] for k in range(len(pool))])
    real = brightness([packed.gray[[k, k, k]] for k in np.flatnonzero(packed.labels > 0)])
    limit = np.quantile(real, 0.3)
    none = judged_pool(pool, packed, weights, quantile=0.3, keep=0.0)
    assert none.index == [place for place, score in zip(pool.index, scores, strict=True) if score <= limit]
    some = judged_pool(pool, packed, weights, quantile=0.3, keep=0.5)
    assert len(none) < len(some) < len(pool) and set(none.index) <= set(some.index)
    assert some.index == judged_pool(pool, packed, weights, quantile=0.3, keep=0.5).index


def test_masks_of_some_folds_can_teach(cohort, packed):
    scans = load_datalist(cohort, require=["slice_labels"])
    both = Compose([head_ct_loader(mask_keys="label"),
                    HeadCropd(keys=("image", "label"), size=SIZE, mode=("bilinear", "nearest"))])  # fmt: skip
    assert pack_masks(scans, packed, both) == {}
    masks = pack_masks(scans, packed, both, [0, 1])
    folds = np.repeat(packed.folds, np.diff(packed.starts))
    assert sorted(masks) == np.flatnonzero((packed.labels > 0) & np.isin(folds, [0, 1])).tolist() and masks
    assert all(mask.shape == (SIZE, SIZE) and mask.any() for mask in masks.values())
    dense = [hounsfield(packed.gray[k])[mask].mean() > hounsfield(packed.gray[k])[~mask & (packed.gray[k] > 60) &
             (packed.gray[k] < 200)].mean() for k, mask in masks.items()]  # fmt: skip
    assert np.mean(dense) > 0.8
    pool = implant_pool(packed, per_scan=2, seed=3)
    batch = next(iter(SliceMixture(packed, pool, 24, 1, positive_share=0.5, masks=masks)))
    kinds = batch["mask"][batch["label"] == 1].flatten(1).amin(dim=1)
    assert {-1, 0} == set(kinds.tolist())
    for scan in scans:
        scan.pop("label", None)
    with pytest.raises(IchsegError, match="has hemorrhage, but no mask"):
        pack_masks(scans, packed, both, [0, 1])


def test_unknown_pixels_teach_nothing_and_labels_teach_the_score():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, :4], mask[1] = 1, -1
    target = {"mask": mask, "label": torch.tensor([1.0, 1.0])}
    ContextLoss(instances=0, score=0)(logits, target).backward()
    assert (logits.grad[0, 1] != 0).all() and (logits.grad[1] == 0).all()
    logits.grad = None
    ContextLoss(cross_entropy=0, dice=0, instances=0)(logits, target).backward()
    assert logits.grad[:, 2, 0, 0].lt(0).all() and (logits.grad[:, 1] == 0).all()
    logits.grad = None
    ContextLoss(cross_entropy=0, dice=0, score=0, share=2 / 64)(logits, target).backward()
    assert ((logits.grad[:, 1] != 0).flatten(1).sum(dim=1) == 2).all()  # the two most suspicious pixels of each
    perfect = torch.zeros(1, 3, 8, 8)
    perfect[:, 1] = torch.where(mask[:1, 0] > 0, 20.0, -20.0)
    perfect[:, 2] = 20
    loss = ContextLoss(share=0.1)(perfect, {"mask": mask[:1], "label": torch.ones(1)})
    assert loss.item() == pytest.approx(0, abs=1e-4)


def test_the_average_follows_the_network():
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    average = MovingAverage(network, decay=0.9)
    engine = Engine(lambda engine, batch: nn.init.constant_(network.weight, 2.0))
    average.attach(engine)
    engine.run([0], max_epochs=1)
    decay = 1 / 21  # early on, the past counts less
    assert average.network.weight.item() == pytest.approx(decay * 1 + (1 - decay) * 2)
    engine.state.iteration = 10**6
    average.update(engine)
    assert average.network.weight.item() == pytest.approx(0.9 * (2 - decay) + 0.1 * 2)


class Sure(nn.Module):
    """A teacher that finds hemorrhage where the image is bright."""

    def forward(self, x):
        pixels = torch.where(x[:, :1] > 0.7, 3.0, torch.where(x[:, :1] > 0.5, -0.5, -4.0))
        return torch.cat([torch.zeros_like(pixels), pixels, torch.zeros_like(pixels)], dim=1)


def test_the_teacher_outlines_what_it_is_sure_of_once_it_has_learned():
    average = MovingAverage(Sure())
    image = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    image[1, :, :2], image[1, :, 2:4] = int((80 + 20) * 255 / 120), int((60 + 20) * 255 / 120)
    mask = torch.full((3, 1, 8, 8), -1, dtype=torch.int8)
    mask[0] = 0
    batch = {"image": image, "mask": mask, "label": torch.tensor([0.0, 1, 1])}
    prepare = PrepareMixture(Augmentation(amount=0, flip=0, clip=0, alone=0), average=average, start=5)
    early = prepare(batch, torch.device("cpu"))[1]["mask"]
    assert torch.equal(early, mask.float())
    prepare.step = 6
    inputs, target = prepare(batch, torch.device("cpu"))
    taught = target["mask"][1, 0]
    assert (taught[:2] == 1).all() and (taught[2:4] == -1).all() and (taught[4:] == 0).all()
    assert (target["mask"][2] == -1).all() and (target["mask"][0] == 0).all()  # sure of nothing: unknown; known: kept
    assert inputs[1, 0, 0, 0] == pytest.approx(0.8, abs=0.01)


def test_a_teacher_is_imitated(tmp_path):
    torch.manual_seed(0)
    network, image = ContextUNet(3, (4, 8, 16)), torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    file = segmenter_file(tmp_path / "teacher.pt", channels=[4, 8, 16])
    teacher = trained_segmenter(file)
    assert trained_segmenter(None) is None and not teacher.training
    still = Augmentation(amount=0, flip=0, clip=0, alone=0)
    prepare = PrepareMixture(still, teacher=teacher)
    batch = {"image": image, "mask": torch.full((4, 1, 32, 32), -1, dtype=torch.int8), "label": torch.ones(4)}
    inputs, target = prepare(batch, torch.device("cpu"))
    assert torch.equal(target["teacher"], teacher(inputs)) and not target["teacher"].requires_grad
    loss = ContextLoss(cross_entropy=1, dice=0, instances=0, score=1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    before = (network(inputs)[:, 1].sigmoid() - target["teacher"][:, 1].sigmoid()).abs().mean()
    for _ in range(40):
        optimizer.zero_grad()
        loss(network(inputs), target).backward()
        optimizer.step()
    after = (network(inputs)[:, 1].sigmoid() - target["teacher"][:, 1].sigmoid()).abs().mean()
    assert after < 0.6 * before
    without = {key: value for key, value in target.items() if key != "teacher"}
    logits = network(inputs)
    assert ContextLoss()(logits, without) < ContextLoss()(logits, target)
    assert torch.equal(ContextLoss(distillation=0)(logits, target), ContextLoss()(logits, without))


def test_a_slice_known_to_bleed_is_judged_by_its_own_suspicion():
    class Doubtful(nn.Module):
        def forward(self, x):
            pixels = torch.logit(x[:, :1].clamp(0.01, 0.99))
            return torch.cat([torch.zeros_like(pixels), pixels, torch.zeros_like(pixels)], dim=1)

    image = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    for place, brightness in enumerate((90, 40, 10)):  # HU, here also percent
        image[place, :, :2] = round((brightness + 20) * 255 / 120)
        image[place, :, 2:4] = round((brightness / 3 + 20) * 255 / 120)
    batch = {"image": image, "mask": torch.full((3, 1, 8, 8), -1, dtype=torch.int8), "label": torch.ones(3)}
    masks = {}
    for least in (1.0, 0.2):
        still = Augmentation(amount=0, flip=0, clip=0, alone=0)
        prepare = PrepareMixture(still, average=MovingAverage(Doubtful()), least=least, share=0.1)
        prepare.step = 1
        masks[least] = prepare(batch, torch.device("cpu"))[1]["mask"]
    assert (masks[1.0][0, 0, :2] == 1).all() and (masks[1.0][1:] == -1).all()
    assert (masks[0.2][1, 0, :2] == 1).all() and (masks[0.2][1, 0, 2:4] == -1).all() and not masks[0.2][1, 0, 4:].any()
    assert torch.equal(masks[0.2][0, 0, 4:], masks[1.0][0, 0, 4:]) and (masks[0.2][2] == -1).all()
    known = batch["mask"].clone()
    known[0, :, 0] = 0  # outside the skull: bright as it is, nothing is taught there
    taught = prepare({**batch, "mask": known}, torch.device("cpu"))[1]["mask"]
    assert not taught[0, 0, 0].any() and (taught[0, 0, 1] == 1).all()


def test_the_rate_goes_up_then_down():
    factor = warm_cosine(100, 0.1)
    values = [factor(step) for step in range(101)]
    assert values[0] < 0.2 and max(values) == values[10] == 1 and values[100] == 0
    assert all(b <= a for a, b in pairwise(values[10:]))


def test_members_must_have_been_trained_alike(tmp_path):
    for number, size in enumerate((64, 96)):
        state = segmenter("context", (4, 8, 16)).state_dict()
        segmenter_file(tmp_path / str(number) / "model.pt", size=size, state=state, channels=[4, 8, 16])
    files = [tmp_path / str(number) / "model.pt" for number in range(2)]
    with pytest.raises(IchsegError, match="different settings"):
        join_members(files, tmp_path / "model.pt")
    join_members([files[0], files[0]], tmp_path / "model.pt")
    settings = read_settings(tmp_path / "model.pt", SegmenterSettings)
    assert (settings.size, settings.members) == (64, 2)
    joined = torch.load(tmp_path / "model.pt", weights_only=True)
    segmenter("context", (4, 8, 16), members=2).load_state_dict(joined)


# --- all of it --------------------------------------------------------------------------------------------------------
TINY = ["--size", str(SIZE), "--epochs", "2", "--batch-size", "8", "--device", "cpu"]
SETTINGS = ["steps_per_epoch=4", "implants_per_scan=4", "architecture=context", "channels=[4, 8, 16]",
            "num_workers=0", "teach_after=0.3", "suspicious_share=0.01"]  # fmt: skip


@pytest.mark.slow
def test_one_command_trains_segments_measures_and_goes_on(cohort, tmp_path, capsys):
    words = ["train", "--datalist", str(cohort), "--output", str(tmp_path / "run"), "--members", "2", *TINY]
    words += [f"--set={setting}" for setting in SETTINGS]
    out = tmp_path / "run"
    # A wrong value stops the training, and does not bar the folder for the right one.
    assert main([*words, "--set=precision=fp17"]) == 2
    assert not (out / "member_0" / "checkpoint.pt").exists()
    assert main(words) == 0
    settings = read_settings(out / "model.pt", SegmenterSettings)
    assert settings.members == 2 and settings.channels == [4, 8, 16] and settings.suspicious_share == 0.01
    assert (settings.min_volume_ml, settings.fill_holes_mm2) == (SPECK_ML, HOLE_MM2) and settings.score_slope != 1.0
    found = json.loads((out / "results" / "detection.json").read_text())
    assert found["scans"] == 4 and 0 <= found["slice_auc_probability"] <= 1
    assert (out / "results" / "evaluation.csv").is_file() and (out / "masks" / "report.html").is_file()
    history = (out / "member_1" / "history.csv").read_text().splitlines()
    assert len(history) == 3 and "val_auc" in history[0]
    before = (out / "member_0" / "model.pt").stat().st_mtime_ns
    usual = config_values("ich_segmentation", "train_recommended.yaml")["weight_decay"]  # said or not, it is the same
    again = [*words, "--set", f"weight_decay={usual}"]
    assert main(again) == 0 and (out / "member_0" / "model.pt").stat().st_mtime_ns == before
    assert main(words) == 0 and (out / "member_0" / "model.pt").stat().st_mtime_ns == before
    capsys.readouterr()
    fitted = (out / "model.pt").read_bytes()
    # Not even one that was interrupted goes on with other folds: it would have seen what is held out now.
    for file in out.glob("member_*/made_of.json"):
        file.write_text(file.read_text().replace('"complete": true', '"complete": false'))
    one = load_weights(segmenter("context", [4, 8, 16]), out / "member_1" / "model.pt")  # a member can be used alone
    assert len(one.members) == 1
    assert main([*words, "--train-folds", "0,1"]) == 2
    assert "made with train_folds [0, 1, 2], now [0, 1]" in capsys.readouterr().err
    for more, said in (
        (["--set=seed=3"], "'seed' is set by the options"),
        (["--set=val_folds=[4]"], "'val_folds' is set by"),
        (["--members", "0"], "--members must be at least 1, not 0"),
        (["--member", "2"], "members are numbered from 0"),
        (["--seed", "-1"], "--seed must not be negative, not -1"),
        (["--seed", "3"], "made with seed 0, now 3"),
        (["--preset", "paper"], "require --preset recommended"),
        (["--cross-validate", "--val-folds", "3"], 'made with scans "held out", now "cross-validated"'),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["train", "--datalist", str(cohort), "--output", str(out), "--preset", "paper", *TINY]) == 2
    assert 'made with preset "recommended", now "paper"' in capsys.readouterr().err
    assert (out / "model.pt").read_bytes() == fitted
    assert main(["segment", str(cohort.parent / "images"), str(tmp_path / "masks"), "--weights", str(out / "model.pt"),
                 "--no-report", "--device", "cpu"]) == 0  # fmt: skip


@pytest.mark.slow
def test_cross_validation_holds_every_fold_out_once(cohort, tmp_path):
    plan = Plan(datalist=cohort, output=tmp_path, settings=tuple(SETTINGS), device="cpu",
                overrides={"size": SIZE, "epochs": 1, "batch_size": 8})  # fmt: skip
    # One fold alone is the same training: another process may make it, anywhere, with as many workers as it likes.
    elsewhere = replace(plan, output=tmp_path / "elsewhere", cache=tmp_path, workers=1)
    weights = train_fold("recommended", elsewhere, [0, 1, 2], 1)
    assert weights == tmp_path / "elsewhere" / "fold_1" / "model.pt"
    assert sorted(f.name for f in (tmp_path / "elsewhere").iterdir() if f.is_dir()) == ["fold_1"]
    shutil.copytree(weights.parent, tmp_path / "fold_1")
    trained = (tmp_path / "fold_1" / "member_0" / "model.pt").stat().st_mtime_ns
    results = cross_validate("recommended", plan, [0, 1, 2])
    assert (tmp_path / "fold_1" / "member_0" / "model.pt").stat().st_mtime_ns == trained
    masks = {fold: {f.name for f in (tmp_path / f"fold_{fold}" / "masks").glob("*_ich.nii.gz")} for fold in range(3)}
    folds = {scan["case"]: scan["fold"] for scan in load_datalist(cohort)}
    for fold, names in masks.items():
        assert names == {f"{case}_ich.nii.gz" for case, of in folds.items() if of == fold}
    assert sorted(f.name for f in tmp_path.glob("implants_*.npz")) == [f"implants_{k}.npz" for k in range(3)]
    found = json.loads((results / "detection.json").read_text())
    assert found["scans"] == 6
    with (results / "folds.csv").open(newline="") as file:
        rows = {row["fold"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["0", "1", "2", "all"] and rows["all"]["slices"] == "48"
    assert sum(int(rows[str(fold)]["positive_slices"]) for fold in range(3)) == found["positive_slices"]
    with pytest.raises(IchsegError, match="no fold 7; available folds: 0, 1, 2"):
        train_fold("recommended", plan, [0, 1, 2], 7)
    with pytest.raises(IchsegError, match="preset 'best' is unknown; choose one of recommended, paper"):
        cross_validate("best", plan, [0, 1, 2])
    with pytest.raises(IchsegError, match="at least 3 folds"):
        cross_validate("recommended", plan, [0, 1])


def test_presets_and_folds_are_checked_before_anything_is_read(cohort, tmp_path, capsys):
    words = ["train", "--datalist", str(cohort), "--output", str(tmp_path / "x")]
    assert main([*words, "--test-folds", "3"]) == 2
    assert "fold" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert main([*words, "--fold", "1"]) == 2
    assert "--fold needs --cross-validate" in capsys.readouterr().err and not (tmp_path / "x").exists()
    for preset in ("recommended", "paper"):  # a mistyped key is told before the first stage, not after the last but one
        assert main([*words, "--preset", preset, "--val-folds", "1", "--test-folds", "2", "--train-folds", "0",
                     "--set", "nope=1"]) == 2  # fmt: skip
        assert "'nope' is not a key of" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert main([*words, "--cross-validate", "--test-folds", "2"]) == 2
    assert "--cross-validate holds out every fold in turn" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_pictures_outline_what_is_there_though_only_the_head_is_shown():
    image = np.full((120, 160, 3), -1000.0, np.float32)
    image[10:80, 60:140] = 30  # the head, off center
    mask = np.zeros(image.shape, np.uint8)
    mask[50:62, 110:122, 1] = 1
    image[mask > 0] = 90
    for way in (1, -1):  # stored to the left and back, or to the right and front
        affine = np.diag([-way * 1.0, -way * 1.0, 5.0, 1.0])
        volume = MetaTensor(torch.from_numpy(image[::way, ::way].copy())[None], affine=torch.as_tensor(affine))
        cut = HeadCrop(96)(BrainWindow(50, 100)(volume) * 100)
        turned = Orientation("LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(cut)
        gray_slices = (turned[0].numpy() * 2.55).round().astype(np.uint8)
        kept = case_pictures(mask[::way, ::way], affine, gray_slices, np.asarray(turned.affine), 0.0, 100.0)
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(kept["montage"].split(",")[-1]))).convert("RGB"))
        levels = picture.astype(int)
        red, bright = np.argwhere(levels[..., 0] - levels[..., 1] > 40), np.argwhere(levels.min(axis=2) > 200)
        np.testing.assert_allclose(red.min(axis=0), bright.min(axis=0), atol=3)
        np.testing.assert_allclose(red.max(axis=0), bright.max(axis=0), atol=3)


def test_the_gallery_turns_slices_to_the_back(tmp_path):
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    for affine, upward, expected in (
        (np.diag([-1.0, -1, 5, 1]), True, array),
        (np.diag([1.0, 1, 5, 1]), True, array[::-1, ::-1]),
        (np.diag([-1.0, -1, -5, 1]), False, array[:, :, ::-1]),
    ):
        turned, order = to_the_back(array, affine)
        assert order is upward and np.array_equal(turned, expected)
    slices = []
    for case, bleeds in (("a", True), ("b", True), ("c", False)):
        scan = phantom_scan(1, ("IPH",), size=64, slices=4)
        mask = np.zeros(scan.image.shape, np.uint8)
        mask[20:30, 20:30, 2] = case != "b"
        write_volume(tmp_path / f"{case}.nii.gz", scan.image, scan.affine)
        write_volume(tmp_path / f"{case}_ich.nii.gz", mask, scan.affine)
        slices.append(Judged(str(tmp_path / f"{case}.nii.gz"), str(tmp_path / f"{case}_ich.nii.gz"), None, 2, bleeds,
                             int(mask[..., 2].sum())))  # fmt: skip
    slice_gallery(slices, tmp_path / "gallery.png")
    assert Image.open(tmp_path / "gallery.png").height > 3 * 256  # found, missed, made up
    slice_gallery([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_training_and_validation_share_no_fold_however_they_are_started(cohort, tmp_path):
    values = {"datalist": cohort, "output_dir": tmp_path / "out", "train_folds": [0, 1], "val_folds": [1], "size": 32}
    with pytest.raises(RuntimeError) as caught:
        run_bundle("ich_segmentation", "train_recommended.yaml", values)
    assert one_line(caught.value) == "fold 1 is used for both training and validation"
