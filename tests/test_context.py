"""Ensemble, runs, spatial context fusion, aggregation: the worked numbers and invariants."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ichseg.context import (
    MemoryBank,
    aggregate,
    amplify,
    ensemble,
    fuse,
    normalization,
    positive_runs,
    support_pixels,
    vote,
)
from ichseg.context.support import largest_near
from ichseg.data.slices import neighbors


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
    assert normalization(n).tolist() == pytest.approx(sums)
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


def test_the_printed_normalization_adds_slice_indices():
    assert normalization(5, nf="printed").tolist() == pytest.approx([3.5, 4.25, 5.5, 6.75, 7.5])
    assert normalization(1, nf="printed").tolist() == pytest.approx([2.5])
    assert normalization(5, nf="window").tolist() == pytest.approx([2, 2.75, 3, 2.75, 2])
    constant = line([0.6] * 5)
    for nf in ("printed", "window"):
        assert fuse(constant, nf=nf).flatten().tolist() == pytest.approx(
            (0.6 * normalization(5) / normalization(5, nf=nf)).tolist()
        )
    # With the print, a constant run is no fixed point, and a single slice without neighbors is weakened.
    assert float(fuse(line([0.5]), nf="printed")) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="nf must be one of weights, printed, window, not 'sum'"):
        fuse(constant, nf="sum")


@given(st.lists(st.booleans(), max_size=30))
def test_runs_are_maximal_and_cover_exactly_the_positive_slices(flags):
    runs = positive_runs(flags)
    covered = [i for start, stop in runs for i in range(start, stop)]
    assert covered == [i for i, flag in enumerate(flags) if flag]
    assert all(start < stop for start, stop in runs)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(runs))


@given(st.integers(1, 8), st.integers(0, 4), st.floats(0, 2))
def test_normalization_is_what_fusing_ones_without_it_gives(n, window, weight):
    factor = normalization(n, window, weight)
    assert factor.shape == (n,) and bool((factor >= 1).all())
    # Mirrored runs have mirrored sums; the printed ones have not.
    torch.testing.assert_close(factor, factor.flip(0))


@given(st.permutations(range(6)))
def test_fusion_does_not_depend_on_the_order_of_writing(order):
    maps = torch.rand(6, 3, 3, generator=torch.Generator().manual_seed(1))
    bank = MemoryBank()
    for i in order:
        bank.put(i, "layer1", "one", maps[i])
    torch.testing.assert_close(fuse(bank.ensembled(0, 6, "layer1")), fuse(maps), atol=0, rtol=0)


def test_support_lowers_only_what_neighbors_do_not_know():
    logits = torch.full((4, 12, 12), -6.0)
    logits[0:2, 2:4, 2:4] = 4.0  # through two slices
    logits[2, 8, 8] = 2.0  # in one alone
    logits[3, 8, 4] = 1.0  # the last slice has one neighbor
    before, after = neighbors(4, 5.0)
    lowered = support_pixels(logits, before, after, 0.25)
    assert torch.equal(lowered[:2], logits[:2]) and float(lowered[3, 8, 4]) == 1.0 - 0.25 * 7.0
    assert float(lowered[2, 8, 8]) == 2.0 - 0.25 * 8.0  # the last slice's mark is 4 pixels away: too far
    assert torch.equal(support_pixels(logits, before, after, 0.0), logits)
    alone = support_pixels(logits[2:3], *neighbors(1, 5.0), 1.0)
    assert torch.equal(alone, logits[2:3])
    for bad, said in (
        ((logits[0], before, after), "must have shape"),
        ((logits, before, after, 1.5), "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=said):
            support_pixels(*bad)


@pytest.mark.parametrize("reach", [0, 1, 2, 3, 4, 7])
def test_the_largest_value_near_is_max_pooling(reach):
    values = torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(reach))
    expected = torch.nn.functional.max_pool2d(values, 2 * reach + 1, stride=1, padding=reach)
    assert torch.equal(largest_near(values, reach), expected)


def test_votes():
    p = torch.tensor([[0.9, 0.4], [0.3, 0.2]])
    torch.testing.assert_close(vote(p), torch.tensor([0.6, 0.3]))
    torch.testing.assert_close(vote(p, "either"), torch.tensor([0.9, 0.4]))
    torch.testing.assert_close(vote(p, "both"), torch.tensor([0.3, 0.2]))
    with pytest.raises(ValueError, match="vote must be one of mean, either, both, not 'any'"):
        vote(p, "any")


@given(st.floats(0.01, 1), st.integers(0, 1000))
def test_amplified_maps_keep_order_and_peak(scale_of_map, seed):
    maps = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(seed)).double() * scale_of_map
    result = amplify(maps)
    assert result.flatten(1).amax(1).tolist() == pytest.approx([math.tanh(2)] * 2)
    assert torch.equal(result.flatten(1).argsort(1), maps.flatten(1).argsort(1))


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
    torch.testing.assert_close(fuse(one.ensembled(0, 4, 1)), fuse(other.ensembled(0, 4, 1)), atol=0, rtol=0)
    expected = fuse(torch.stack([(maps[i, 2, "a"] + maps[i, 2, "b"]) / 2 for i in range(4)]))
    torch.testing.assert_close(fuse(one.ensembled(0, 4, 2)), expected)
    with pytest.raises(ValueError, match="already in the bank"):
        one.put(0, 1, "a", torch.rand(4, 4))
    with pytest.raises(ValueError, match="not in the bank"):
        one.ensembled(0, 5, 1)


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
    torch.testing.assert_close(
        aggregate([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)], 0.49, (2, 2), "mean"), torch.ones(1, 2, 2).bool()
    )
    with pytest.raises(ValueError, match="rule must be one of"):
        aggregate([torch.zeros(1, 2, 2)], 0.5, (2, 2), "xor")
