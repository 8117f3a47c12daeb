"""ResNet-LSTM, EDAM, RCA: what must hold whatever they are trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ichseg.errors import IchsegError
from ichseg.methods.edam import EDAMNetwork, activation_masks, pair_indices, seed_masks
from ichseg.methods.rca import RegionMemory, aggregated, masked_mean, region_contrast, region_of
from ichseg.methods.resnet_lstm import (
    SliceSequenceClassifier,
    bright_candidates,
    refined,
    sequence_loss,
    sequence_maps,
    windows,
)
from ichseg.synthetic.phantom import phantom_scan


# --- ResNet-LSTM ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sequence():
    return torch.rand(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_order_of_slices_matters_only_with_an_lstm(sequence):
    torch.manual_seed(0)
    order = torch.tensor([3, 0, 4, 1, 2])
    for hidden, same in ((0, True), (16, False)):
        model = SliceSequenceClassifier(hidden=hidden).eval()
        with torch.no_grad():
            straight, shuffled = model(sequence[None])[0], model(sequence[None, order])[0]
        assert torch.allclose(straight[order], shuffled, atol=1e-5) is same


def test_maps_are_made_in_evaluation_mode_and_leave_no_trace(sequence):
    torch.manual_seed(1)
    model = SliceSequenceClassifier(hidden=16).train()
    with torch.no_grad():
        model.head.bias.fill_(3.0)  # every slice is positive
    logits, maps = sequence_maps(model, sequence)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert maps.shape == (5, 64, 64) and maps.min() >= 0 and maps.max() <= 1 and logits.shape == (5,)
    assert not torch.allclose(maps, sequence_maps(model, sequence, beside=1.0)[1])
    with torch.no_grad():
        model.head.bias.fill_(-9.0)
    assert not sequence_maps(model, sequence)[1].any()  # negative slices have no map
    with torch.no_grad():
        model.head.bias.fill_(3.0)
        model.head.weight.zero_()
    assert not sequence_maps(model, sequence)[1].any()  # no gradient, no map


def test_windows_repeat_the_slices_at_the_ends():
    assert windows(4, 3).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert windows(1, 5).tolist() == [[0] * 5]
    with pytest.raises(IchsegError, match="odd number"):
        windows(4, 4)


def test_slices_without_label_teach_nothing():
    logits = torch.tensor([[2.0, -1.0, 50.0]])
    expected = (3 * math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert float(sequence_loss(logits, torch.tensor([[1, 0, -1]]), 3.0)) == pytest.approx(expected, rel=1e-5)
    assert float(sequence_loss(logits, torch.tensor([[-1, -1, -1]]))) == 0


def test_candidates_are_bright_pieces_and_the_map_chooses():
    head = np.moveaxis(phantom_scan(3, (), size=192, slices=10).image, 2, 0).astype(np.float32)[5]
    rows, columns = np.indices(head.shape)
    blood, chalk = (np.hypot(rows - 96, columns - place) < 8 for place in (75, 117))
    grain = np.random.default_rng(0).normal(0, 2, head.shape)
    image = np.where(blood | chalk, 60 + grain, head)
    found = bright_candidates(image)
    assert found[blood].mean() > 0.8 and found[chalk].mean() > 0.8
    assert (found & ~blood & ~chalk).sum() < 0.2 * found.sum()
    cam = np.exp(-((rows - 96) ** 2 + (columns - 75) ** 2) / 200)
    assert np.array_equal(refined(blood | chalk, cam), blood)
    assert not refined(blood | chalk, np.zeros_like(cam)).any()
    assert not bright_candidates(np.full((64, 64), -1000.0)).any()


# --- EDAM -------------------------------------------------------------------------------------------------------------
def test_masks_have_unit_length_at_every_pixel():
    masks = activation_masks(torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(masks.square().sum(dim=1), torch.ones(3, 5, 5))
    assert masks.min() >= 0


def test_swapping_the_images_of_a_pair_swaps_their_logits():
    torch.manual_seed(0)
    network = EDAMNetwork(12, (4, 4), reduced=8).eval()
    features = torch.rand(2, 12, 4, 4)
    with torch.no_grad():
        logits, masks = network(features)
        network.image.copy_(network.image.flip(1))  # the embeddings of the images are swapped with them
        swapped, _ = network(features.flip(0))
    torch.testing.assert_close(swapped, logits.flip(0))
    assert masks.shape == (2, 2, 4, 4)
    with pytest.raises(ValueError, match="in pairs, not 3"):
        network(torch.rand(3, 12, 4, 4))


def test_an_empty_mask_says_nothing_of_the_image():
    torch.manual_seed(0)
    network = EDAMNetwork(12, (4, 4), reduced=8).eval()
    with torch.no_grad():
        network.mask.weight[1] = 0  # the mask of hemorrhage is zero everywhere
        one, other = network(torch.rand(2, 12, 4, 4))[0], network(torch.rand(2, 12, 4, 4))[0]
    torch.testing.assert_close(one, other)


def test_pairs_are_half_alike():
    labels = np.array([0, 1, 0, 1, 1])
    pairs = pair_indices(labels, np.random.default_rng(0), 40)
    bleeding = labels[pairs].sum(axis=1)
    assert (bleeding == 2).sum() == (bleeding == 1).sum() == 20
    assert 25 <= labels[pairs[:, 0]].sum() <= 35 and 25 <= labels[pairs[:, 1]].sum() <= 35  # the place tells nothing
    with pytest.raises(ValueError, match="with and without"):
        pair_indices(np.ones(3), np.random.default_rng(0), 2)


def test_seeds_exceed_the_constant_background():
    masks = torch.tensor([[[0.1, 0.4, 0.39]], [[0.0, 0.0, 0.0]]])
    assert seed_masks(masks).tolist() == [[[False, True, True]], [[False, False, False]]]


# --- RCA --------------------------------------------------------------------------------------------------------------
def test_the_memory_is_a_ring():
    memory = RegionMemory(2, 3, length=4)
    before = memory.slots.clone()
    for _ in range(5):
        memory.put(1, torch.ones(3))
    assert memory.pointer.tolist() == [0, 1] and torch.equal(memory.slots[0], before[0])
    torch.testing.assert_close(memory.slots[1, 1], 0.99 * before[1, 1] + 0.01)
    torch.testing.assert_close(memory.slots[1, 0], 0.99 * (0.99 * before[1, 0] + 0.01) + 0.01)


def test_regions_and_their_means():
    maps = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert region_of(maps).tolist() == [[[False, True], [True, False]]]
    features = torch.tensor([[[[5.0, 1.0], [3.0, 7.0]]]])
    assert masked_mean(features, region_of(maps)).tolist() == [[2.0]]
    assert masked_mean(features, torch.zeros(1, 2, 2, dtype=torch.bool)).tolist() == [[0.0]]


def test_contrast_vanishes_where_classes_are_opposite():
    axis = torch.tensor([1.0, 0.0], dtype=torch.float64)
    memory = torch.stack([axis.expand(5, 2), -axis.expand(5, 2)])
    assert 0 < float(region_contrast(3 * axis, memory, 0)) < 1.01 * 5 * math.exp(-2 / 0.07)
    alike = torch.stack([axis.expand(5, 2), axis.expand(5, 2)])
    assert float(region_contrast(axis, alike, 0)) == pytest.approx(math.log(6), abs=1e-5)


def test_the_memory_speaks_to_every_pixel_without_a_softmax():
    identity = torch.nn.Identity()
    features, centers = torch.rand(1, 3, 2, 2), torch.rand(4, 3)
    made = aggregated(features, centers, identity, identity, identity)
    pixel = features[0, :, 1, 0]
    torch.testing.assert_close(made[0, :, 1, 0], 2 * (centers @ pixel) @ centers)
