"""Label-efficient transfer and DropBlock: the worked numbers, and weights that travel whole or not at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import ContrastiveLoss

from ichseg.errors import IchsegError
from ichseg.methods.dropblock import DropBlock
from ichseg.methods.label_efficient import (
    ENCODER,
    AnomalyNetwork,
    LabelEfficientUNet,
    MaskLoss,
    anomaly_heat,
    anomaly_loss,
    local_contrastive_loss,
    region_vectors,
    swap_patches,
    transfer,
    volume_dice,
    with_anomalies,
)

SMALL = (4, 8, 8, 8, 8)


def test_the_loss_of_masks_and_of_empty_ones():
    loss = MaskLoss()
    p, m = torch.tensor([[[[0.9, 0.8], [0.1, 0.2]]]]), torch.tensor([[[[1.0, 1], [0, 0]]]])
    assert float(loss(p, m)) == pytest.approx(0.02222, abs=1e-5)
    three = torch.ones(1, 1, 1, 3)
    assert float(loss(three, torch.zeros_like(three))) == pytest.approx(0.15)
    assert float(MaskLoss(empty=1.0)(three, torch.zeros_like(three))) == pytest.approx(0.75)
    both = torch.cat([p, torch.zeros_like(p)]), torch.cat([m, torch.zeros_like(m)])
    assert float(loss(*both)) == pytest.approx(0.02222 / 2, abs=1e-5)


def test_the_dice_of_volumes_is_1_for_two_empty_ones():
    empty, one = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    one[0, 0, :2] = 1
    assert volume_dice(empty, empty) == 1 == volume_dice(one, one)
    assert volume_dice(one, empty) == pytest.approx(1 / 3)


def test_swapped_patches_hold_the_same_pixels():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(128, 128))
    swapped = swap_patches(image, rng, pairs=6)
    assert np.array_equal(np.sort(swapped, axis=None), np.sort(image, axis=None))
    assert 2 * 100 <= (swapped != image).sum() <= 12 * 29 * 29
    assert np.array_equal(swap_patches(image[:5, :5], rng), image[:5, :5])  # no room


def test_contrastive_losses_of_worked_examples():
    loss = ContrastiveLoss(temperature=0.1)
    axes = torch.eye(4)
    assert float(loss(axes[:2], axes[:2])) == pytest.approx(math.log(1 + 2 * math.exp(-10)), rel=1e-2)
    assert float(loss(axes[[0, 0]], axes[[0, 0]])) == pytest.approx(math.log(3), abs=1e-4)
    regions = axes[None, :3]
    assert float(local_contrastive_loss(regions, regions)) == pytest.approx(math.log(1 + 4 * math.exp(-10)), rel=1e-3)
    alike = axes[:1].expand(3, -1)[None]
    assert float(local_contrastive_loss(alike, alike)) == pytest.approx(math.log(5), abs=1e-5)
    mixed = local_contrastive_loss(regions, regions[:, [1, 2, 0]])
    assert float(mixed) > 5
    with pytest.raises(ValueError, match="expected two"):
        local_contrastive_loss(regions, alike[:, :2])


def test_regions_are_cut_from_their_places():
    features = torch.arange(2 * 6 * 6.0).reshape(1, 2, 6, 6)
    vectors = region_vectors(features, [(0, 0), (2, 3)])
    assert vectors.shape == (1, 2, 18) and torch.equal(vectors[0, 1].reshape(2, 3, 3), features[0, :, 2:5, 3:6])
    with pytest.raises(ValueError, match="beyond"):
        region_vectors(features, [(4, 4)])


def test_anomalies_are_pushed_away_and_shown():
    torch.manual_seed(0)
    network = AnomalyNetwork((4, 4, 4, 4)).eval()
    image = torch.rand(2, 1, 64, 64)
    scores = network(image)
    assert scores.shape == (2, 1, 8, 8) and scores.min() >= 0
    constant = torch.full((2, 1, 4, 4), 0.7)
    expected = (0.7 - math.log(1 - math.exp(-0.7))) / 2
    assert float(anomaly_loss(constant, torch.tensor([0.0, 1.0]))) == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(anomaly_loss(torch.zeros(1, 1, 4, 4), torch.ones(1)))
    point = torch.zeros(1, 1, 8, 8)
    point[0, 0, 2, 5] = 1
    heat = anomaly_heat(point, (64, 64), sigma=4.0)
    assert heat.shape == (1, 1, 64, 64) and heat.min() >= 0 and heat.max() == 1
    at = divmod(int(heat.flatten().argmax()), 64)
    assert 16 <= at[0] < 24 and 40 <= at[1] < 48
    rng = np.random.default_rng(1)
    drawn = with_anomalies(np.zeros((128, 128)), rng)
    assert 0.01 < (drawn > 0).mean() < 0.6 and drawn.max() <= 1


def test_weights_travel_whole_or_not_at_all():
    torch.manual_seed(0)
    source, target = LabelEfficientUNet(1, 1, SMALL), LabelEfficientUNet(1, 1, SMALL)
    encoder = {name: value for name, value in source.state_dict().items() if name.startswith(ENCODER)}
    before = {name: value.clone() for name, value in target.state_dict().items()}
    report = transfer(target, {**encoder, "head.weight": torch.zeros(1)})
    assert len(report.copied) == len(encoder) and report.unused == ("head.weight",)
    assert all(name.startswith(("upcat_", "final_conv.")) for name in report.missing)
    assert f"{len(encoder)} of {len(before)} tensors copied" in report.text() and "head.weight" in report.text()
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(target.eval().encode(image)[-1], source.eval().encode(image)[-1])
    other = LabelEfficientUNet(1, 1, (4, 8, 8, 8, 16))
    kept = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(IchsegError, match=r"only \d+ of \d+ tensors of the encoder match .* has shape"):
        transfer(other, encoder)
    assert all(torch.equal(value, kept[name]) for name, value in other.state_dict().items())
    with pytest.raises(IchsegError, match="is missing"):
        transfer(target, {})


def test_the_unet_keeps_sizes_and_its_decoder_can_stop_early():
    network = LabelEfficientUNet(2, 3, SMALL, dropout=0.5).eval()
    image = torch.rand(1, 2, 48, 64)
    with torch.no_grad():
        assert network(image).shape == (1, 3, 48, 64)
        features = network.encode(image)
        assert [tuple(f.shape[2:]) for f in features] == [(48, 64), (24, 32), (12, 16), (6, 8), (3, 4)]
        assert network.decode(features, steps=3).shape == (1, 8, 24, 32)
        torch.testing.assert_close(network.final_conv(network.decode(features)), network(image))


def test_dropped_blocks_are_squares_and_the_mean_stays():
    torch.manual_seed(0)
    layer = DropBlock(0.2, 7)
    x = torch.ones(64, 2, 32, 32)
    made = torch.stack([layer(x).mean(dim=(1, 2, 3)) for _ in range(16)])
    assert float(made.mean()) == pytest.approx(1, abs=0.02)
    one = layer(x)
    assert torch.equal(one[:, 0] == 0, one[:, 1] == 0)  # all channels alike
    assert 0.1 < float((one == 0).float().mean()) < 0.25
    seeds = torch.zeros(1, 1, 21, 21)
    layer.eval()
    assert layer(x) is x
    single = DropBlock(1e-12, 7)
    assert torch.equal(single(seeds + 1), seeds + 1)
    dropped = (one[:, 0] == 0).float()[:, None]
    opened = torch.nn.functional.max_pool2d(-torch.nn.functional.max_pool2d(-dropped, 7, 1, 0), 7, 1, 0)
    inner = dropped[:, :, 6:-6, 6:-6]  # every dropped place lies in a whole 7 x 7 block, away from the border
    assert torch.equal(opened[:, :, : inner.shape[2], : inner.shape[3]], inner)
    with pytest.raises(ValueError, match="block odd"):
        DropBlock(0.2, 6)
