"""Ensemble, runs, spatial context fusion, aggregation: the worked numbers and invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ichseg.context import MemoryBank, aggregate, amplify, ensemble, fuse, positive_runs


def line(values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def test_amplify_reaches_tanh_two_and_keeps_zeros():
    maps = torch.stack([torch.tensor([[0.0, 3.0], [1.5, 0.6]]), torch.zeros(2, 2)])
    result = amplify(maps)
    assert result[0].max() == pytest.approx(math.tanh(2), abs=1e-6) == pytest.approx(0.9640, abs=1e-4)
    assert result[0, 1, 0] == pytest.approx(math.tanh(1), abs=1e-6)
    assert result[1].eq(0).all()


def test_amplify_lifts_thresholds_as_stated():
    x = torch.tensor([[0.17, 0.2, 0.22, 0.5, 1.0]])[None]
    expected = torch.tensor([0.3275, 0.3799, 0.4136, 0.7616])
    torch.testing.assert_close(amplify(x)[0, 0, :4], expected, atol=1e-4, rtol=0)


def test_ensemble_is_the_mean_and_refuses_other_sizes():
    torch.testing.assert_close(ensemble([torch.zeros(2, 3, 3), torch.ones(2, 3, 3)]), torch.full((2, 3, 3), 0.5))
    with pytest.raises(ValueError, match="differ in shape"):
        ensemble([torch.zeros(2, 3, 3), torch.zeros(2, 4, 4)])


@pytest.mark.parametrize(
    ("flags", "runs"),
    [
        ([], []),
        ([0, 0], []),
        ([1], [(0, 1)]),
        ([1, 1, 0, 1, 0, 0, 1, 1], [(0, 2), (3, 4), (6, 8)]),
    ],
)
def test_positive_runs(flags, runs):
    assert positive_runs([bool(f) for f in flags]) == runs
    assert positive_runs(torch.tensor(flags, dtype=torch.bool)) == runs


@pytest.mark.parametrize(
    ("n", "sums"),
    [
        (1, [1]),
        (2, [1.5, 1.5]),
        (3, [1.75, 2, 1.75]),
        (4, [1.75, 2.25, 2.25, 1.75]),
        (5, [1.75, 2.25, 2.5, 2.25, 1.75]),
        (6, [1.75, 2.25, 2.5, 2.5, 2.25, 1.75]),
    ],
)
def test_normalization_is_the_sum_of_weights_that_exist(n, sums):
    # The weight of a slice on itself is 1 / sum, which an impulse reads off.
    own = [float(fuse(line([float(j == i) for j in range(n)]))[i]) for i in range(n)]
    assert own == pytest.approx([1 / s for s in sums])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 1, 0, 0], [0.142857, 0.222222, 0.4, 0.222222, 0.142857]),
        ([1, 0, 0, 0, 0], [0.571429, 0.222222, 0.1, 0, 0]),
        ([0, 0.8, 0.6], [0.314286, 0.55, 0.571429]),
        ([0.3] * 7, [0.3] * 7),
        ([0.9], [0.9]),
    ],
)
def test_fusion_worked_examples(values, expected):
    torch.testing.assert_close(fuse(line(values)), line(expected), atol=1e-6, rtol=0)


def test_fusion_without_window_or_weight_is_the_identity():
    maps = torch.rand(5, 3, 3)
    torch.testing.assert_close(fuse(maps, window=0), maps)
    torch.testing.assert_close(fuse(maps, weight=0.0), maps)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_fusion_stays_within_its_window(values):
    fused = fuse(line(values)).flatten()
    for i, value in enumerate(fused.tolist()):
        window = values[max(i - 2, 0) : i + 3]
        assert min(window) - 1e-9 <= value <= max(window) + 1e-9


def test_bank_does_not_depend_on_the_order_of_writing_and_writes_once():
    maps = {(i, layer, m): torch.rand(4, 4) for i in range(4) for layer in (1, 2) for m in ("a", "b")}
    one, other = MemoryBank(), MemoryBank()
    for key, value in maps.items():
        one.put(*key, value)
    for key in reversed(list(maps)):
        other.put(*key, maps[key])
    torch.testing.assert_close(one.fused(0, 4, 1), other.fused(0, 4, 1), atol=0, rtol=0)
    expected = fuse(torch.stack([(maps[i, 2, "a"] + maps[i, 2, "b"]) / 2 for i in range(4)]))
    torch.testing.assert_close(one.fused(0, 4, 2), expected)
    with pytest.raises(ValueError, match="already in the bank"):
        one.put(0, 1, "a", torch.rand(4, 4))
    with pytest.raises(ValueError, match="lacks"):
        one.fused(0, 5, 1)


def test_aggregation_or_is_max_and_is_min_and_the_threshold_is_strict():
    a, b = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    either = aggregate([a, b], 0.4, (8, 8), "or")
    both = aggregate([a, b], 0.4, (8, 8), "and")
    assert torch.equal(either, (a > 0.4) | (b > 0.4)) and torch.equal(both, (a > 0.4) & (b > 0.4))
    assert (both <= aggregate([a], 0.4, (8, 8))).all() and (aggregate([a], 0.4, (8, 8)) <= either).all()
    assert not aggregate([torch.full((1, 2, 2), 0.25)], 0.25, (2, 2)).any()


def test_aggregation_upsamples_each_layer():
    mask = aggregate([torch.zeros(2, 4, 4), torch.ones(2, 2, 2)], 0.5, (16, 12))
    assert mask.shape == (2, 16, 12) and mask.dtype == torch.bool and mask.all()
    with pytest.raises(ValueError, match="rule must be one of"):
        aggregate([torch.zeros(1, 2, 2)], 0.5, (2, 2), "xor")
