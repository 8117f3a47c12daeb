"""AffinityNet, IRNet and AE: the worked numbers, and walks that stay where they must."""

from __future__ import annotations

import math

import pytest
import torch

from ichseg.methods.affinity import (
    IGNORED,
    AffinityLoss,
    affinity_labels,
    background_score,
    pair_affinity,
    pair_labels,
)
from ichseg.methods.automated_ensemble import RULES, combined_masks, dice_from_miou
from ichseg.methods.irnet import Paths, boundary_affinity, edge_walk, path_pixels
from ichseg.methods.pairs import affinity_matrix, half_disc, random_walk, shifted


def test_a_half_disc_holds_one_of_each_opposite_pair():
    offsets = half_disc(5)
    assert len(offsets) == 34 == len(set(offsets))
    assert not any((-y, -x) in offsets for y, x in offsets) and all(y * y + x * x < 25 for y, x in offsets)
    with pytest.raises(ValueError, match="at least 2"):
        half_disc(1)


@pytest.mark.parametrize("offset", [(0, 1), (2, -3), (-1, 0), (9, 0)])
def test_shifted_looks_from_every_pixel_to_its_partner(offset):
    maps = torch.arange(20.0).reshape(4, 5)
    moved = shifted(maps, offset, fill=-1)
    for y in range(4):
        for x in range(5):
            there = y + offset[0], x + offset[1]
            inside = 0 <= there[0] < 4 and 0 <= there[1] < 5
            assert moved[y, x] == (maps[there] if inside else -1)


def test_the_walk_along_a_chain():
    affinity = torch.eye(3, dtype=torch.float64)
    affinity[0, 1] = affinity[1, 0] = 0.9
    affinity[1, 2] = affinity[2, 1] = 0.1
    start = torch.eye(3, dtype=torch.float64).reshape(3, 1, 3)
    once = random_walk(start, affinity, power=8, doublings=0).reshape(3, 3)
    expected = torch.tensor([[0.6991, 0.3009, 0], [0.3009, 0.6991, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(once, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(once.sum(dim=0), torch.ones(3, dtype=torch.float64))  # columns
    far = random_walk(torch.tensor([[[1.0, 0, 0]]], dtype=torch.float64), affinity, power=8, doublings=8)
    torch.testing.assert_close(far.flatten(), torch.tensor([0.5, 0.5, 0], dtype=torch.float64), atol=2e-5, rtol=0)


def test_affinities_of_features_and_of_all_pixels():
    features = torch.zeros(1, 2, 1, 2)
    features[0, :, 0, 1] = torch.tensor([0.2, 0.4])
    assert float(pair_affinity(features, [(0, 1)])[0, 0, 0, 0]) == pytest.approx(math.exp(-0.3), abs=1e-6)
    offsets = half_disc(2)
    pairs = torch.rand(len(offsets), 3, 4)
    matrix = affinity_matrix(pairs, offsets)
    assert torch.equal(matrix, matrix.T) and torch.equal(matrix.diagonal(), torch.ones(12))
    assert matrix[0, 1] == pairs[offsets.index((0, 1)), 0, 0] and matrix[5, 9] == pairs[offsets.index((1, 0)), 1, 1]
    assert matrix[3, 4] == 0  # the end of a row and the start of the next are no pair
    with pytest.raises(ValueError, match="for 1 offsets"):
        affinity_matrix(pairs, offsets[:1])


@pytest.mark.parametrize(("power", "crossing"), [(4, 0.2755), (8, 0.188), (16, 0.123), (32, 0.077)])
def test_where_hemorrhage_wins_against_the_background(power, crossing):
    maps = torch.tensor([[[crossing - 0.002, crossing + 0.002]]])
    wins = maps[0] > background_score(maps, power)
    assert wins.tolist() == [[False, True]]


def test_sure_pixels_and_their_pairs():
    strong = torch.tensor([[[0.2, 0.9, 0.9, 0.0]], [[0.8, 0.1, 0.1, 0.0]]])
    weak = torch.tensor([[[0.1, 0.1, 0.9, 0.0]], [[0.9, 0.9, 0.1, 0.0]]])
    labels = affinity_labels(strong, weak)
    assert labels.tolist() == [[1, IGNORED, 0, IGNORED]]
    background, same, different = pair_labels(torch.tensor([[0, 0, 1, 1, IGNORED]]), [(0, 1)])
    assert background[0].tolist() == [[True, False, False, False, False]]
    assert same[0].tolist() == [[False, False, True, False, False]]
    assert different[0].tolist() == [[False, True, False, False, False]]


def test_the_affinity_loss_adds_up_three_kinds_of_pairs():
    loss = AffinityLoss(radius=2)
    labels = torch.tensor([[[0, 0, 1, 1]]])
    alike = torch.zeros(1, 1, 1, 4)
    assert float(loss(alike, labels)) == pytest.approx(0.5 * -math.log(1e-5), rel=1e-3)
    apart = torch.tensor([[[[0.0, 0, 20, 20]]]])
    assert abs(float(loss(apart, labels))) < 1e-4
    features = torch.rand(1, 3, 6, 6, requires_grad=True)
    loss(features, torch.full((1, 6, 6), IGNORED)).backward()
    assert not features.grad.any()


def test_paths_go_straight():
    assert path_pixels((0, 3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert set(path_pixels((2, -1))) == {(0, 0), (0, -1), (1, 0), (1, -1), (2, 0), (2, -1)}
    for offset in half_disc(6):
        pixels = path_pixels(offset)
        assert (0, 0) in pixels and tuple(offset) in pixels


def test_the_highest_boundary_between_two_pixels_counts():
    boundary = torch.tensor([[0.1, 0.8, 0.2]])
    paths = Paths(3)
    affinity = boundary_affinity(boundary, paths)
    assert float(affinity[paths.offsets.index((0, 2)), 0, 0]) == pytest.approx(0.2)


def test_nothing_leaves_a_closed_ring_and_all_is_even_without_one():
    maps = torch.zeros(1, 15, 15, dtype=torch.float64)
    maps[0, 7, 7] = 1
    ring = torch.zeros(15, 15, dtype=torch.float64)
    ring[3:12, 3:12] = 1
    ring[4:11, 4:11] = 0
    walked = edge_walk(maps, ring)[0]
    outside = torch.ones(15, 15, dtype=torch.bool)
    outside[4:11, 4:11] = False
    assert not walked[outside].any() and walked[4:11, 4:11].min() > 0
    even = edge_walk(torch.ones(1, 15, 15, dtype=torch.float64), torch.zeros(15, 15, dtype=torch.float64))[0]
    torch.testing.assert_close(even, torch.ones_like(even))
    with pytest.raises(ValueError, match="not on one grid"):
        edge_walk(maps, ring[:5])


def test_masks_of_two_networks_are_combined_as_sets():
    maps = torch.rand(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = maps[0] > 0.3, maps[1] > 0.6
    made = {rule: combined_masks(list(maps), (0.3, 0.6), rule) for rule in RULES}
    assert (made["and"] <= one).all() and (one <= made["or"]).all() and (other <= made["or"]).all()
    for index in range(5):
        areas = one[index].sum(), other[index].sum()
        assert torch.equal(made["larger"][index], one[index] if areas[0] >= areas[1] else other[index])
        assert torch.equal(made["smaller"][index], one[index] if areas[0] <= areas[1] else other[index])
    assert not combined_masks([torch.zeros(1, 4, 4)] * 2, (0.0, 0.0), "or").any()
    assert dice_from_miou(0.547) == pytest.approx(0.707, abs=5e-4)
    with pytest.raises(ValueError, match="rule must be one of and, or, larger, smaller, not 'xor'"):
        combined_masks(list(maps), (0.3, 0.6), "xor")
    with pytest.raises(ValueError, match="two maps"):
        combined_masks(list(maps), (0.3,), "or")


def test_a_sparse_walk_is_the_same_walk():
    offsets = half_disc(5)
    pairs, maps = torch.rand(len(offsets), 12, 10), torch.rand(2, 12, 10)
    dense = random_walk(maps, affinity_matrix(pairs, offsets), power=3, doublings=6)
    sparse = random_walk(maps, affinity_matrix(pairs, offsets, sparse=True), power=3, doublings=6)
    torch.testing.assert_close(sparse, dense, atol=1e-5, rtol=1e-4)
