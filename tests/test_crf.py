"""The dense CRF against worked numbers, brute force, and pydensecrf."""

from __future__ import annotations

import math

import pytest
import torch

from ichseg.crf import DenseCRF


def two_pixels(first, second):
    p = torch.tensor([first, second])
    return torch.stack([1 - p, p])[None, :, None, :], torch.full((1, 1, 1, 2), 100.0)


@pytest.mark.parametrize("backend", ["grid", "exact"])
@pytest.mark.parametrize(
    ("start", "iterations", "expected"),
    [
        ((0.7, 0.3), 1, (0.706951, 0.293049)),
        ((0.7, 0.3), 10, (0.707200, 0.292800)),
        ((0.7, 0.55), 10, (0.974060, 0.951445)),
    ],
)
def test_two_pixels(backend, start, iterations, expected):
    crf = DenseCRF(iterations, spatial_sigma=3, spatial_weight=3, bilateral_weight=0, backend=backend)
    p, image = two_pixels(*start)
    assert crf(p.double(), image)[0, 1, 0].tolist() == pytest.approx(expected, abs=1e-6)


def picture(size=(32, 32), labels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, *[5] * len(size), generator=generator)
    mode = "bicubic" if len(size) == 2 else "trilinear"
    image = torch.nn.functional.interpolate(coarse, size, mode=mode) * 220
    image = (image + 8 * torch.randn(image.shape, generator=generator)).clamp(0, 255).round()
    p = torch.rand(1, labels, *size, generator=generator) + 0.5
    return p / p.sum(1, keepdim=True), image


def brute_force(p, image, sxy, wxy, bxy, si, wb, iterations):
    """Mean field with explicit kernel matrices in float64."""
    shape = p.shape[2:]
    grid = torch.stack(torch.meshgrid(*[torch.arange(n).double() for n in shape], indexing="ij"), -1).reshape(
        -1, len(shape)
    )
    gray = image.double().flatten()[:, None]
    square = (grid[:, None] - grid[None]).square().sum(-1)
    tones = (gray - gray.T).square() * 3  # three equal channels
    total = 0
    for weight, kernel in (
        (wxy, torch.exp(-square / (2 * sxy**2))),
        (wb, torch.exp(-square / (2 * bxy**2) - tones / (2 * si**2))),
    ):
        root = kernel.sum(1).rsqrt()
        total = total + weight * root[:, None] * kernel * root[None]
    logits = p.double().flatten(2)[0].clamp_min(1e-8).log()
    q = logits.softmax(0)
    for _ in range(iterations):
        q = (logits + q @ total).softmax(0)
    return q.reshape(p.shape)


@pytest.mark.parametrize(("size", "labels"), [((20, 26), 2), ((18, 18), 4), ((6, 10, 12), 3)])
def test_exact_backend_is_brute_force(size, labels):
    p, image = picture(size, labels)
    settings = dict(spatial_sigma=3, spatial_weight=3, bilateral_sigma=20, intensity_sigma=13, bilateral_weight=5)
    mine = DenseCRF(3, backend="exact", **settings)(p.double(), image.double())
    torch.testing.assert_close(mine, brute_force(p, image, 3, 3, 20, 13, 5, 3), atol=1e-9, rtol=0)


@pytest.mark.parametrize("sigma", [80, 20, 5])
def test_grid_is_nearer_to_exact_than_pydensecrf(sigma):
    pytest.importorskip("pydensecrf")
    p, image = picture((64, 64))
    exact = DenseCRF(1, bilateral_sigma=sigma, backend="exact")(p, image)
    error = {
        backend: float((DenseCRF(1, bilateral_sigma=sigma, backend=backend)(p, image) - exact).abs().mean())
        for backend in ("grid", "pydensecrf")
    }
    assert error["grid"] < 2e-3 and error["grid"] < error["pydensecrf"] / 3
    assert error["pydensecrf"] < 2e-2  # the same formulas, approximated by a lattice


def test_weights_of_zero_and_uniform_input_change_nothing():
    p, image = picture()
    torch.testing.assert_close(DenseCRF(5, spatial_weight=0, bilateral_weight=0)(p, image), p)
    half = torch.full((1, 2, 16, 16), 0.5)
    torch.testing.assert_close(DenseCRF(3)(half, torch.full((1, 1, 16, 16), 9.0)), half)


def test_labels_may_be_swapped_and_probabilities_sum_to_one():
    p, image = picture(labels=3)
    q = DenseCRF(2)(p, image)
    torch.testing.assert_close(q.sum(1), torch.ones(1, 32, 32))
    torch.testing.assert_close(DenseCRF(2)(p[:, [2, 0, 1]], image), q[:, [2, 0, 1]], atol=1e-5, rtol=0)


def test_batches_are_independent_and_results_repeat():
    (a, x), (b, y) = picture(seed=1), picture(seed=2)
    crf = DenseCRF(2)
    together = crf(torch.cat([a, b]), torch.cat([x, y]))
    torch.testing.assert_close(together, torch.cat([crf(a, x), crf(b, y)]), atol=1e-5, rtol=0)
    assert torch.equal(crf(a, x), crf(a, x))


def test_zeros_and_ones_constant_images_and_single_pixels_give_numbers():
    p = torch.zeros(1, 2, 5, 5)
    p[:, 0] = 1
    assert DenseCRF()(p, torch.zeros(1, 1, 5, 5)).isfinite().all()
    assert DenseCRF()(torch.tensor([[[[0.2]], [[0.8]]]]), torch.zeros(1, 1, 1, 1)).isfinite().all()


def test_spacing_counts_in_the_sigmas():
    p, image = picture()
    in_pixels = DenseCRF(1, spatial_sigma=3, bilateral_sigma=20, backend="exact")(p, image)
    in_mm = DenseCRF(1, spatial_sigma=1.5, bilateral_sigma=10, backend="exact", spacing=(0.5, 0.5))(p, image)
    torch.testing.assert_close(in_pixels, in_mm)


def test_gradients_flow():
    p, image = picture((8, 8))
    p.requires_grad_(True)
    DenseCRF(2)(p, image)[:, 1].sum().backward()
    assert p.grad.abs().sum() > 0 and p.grad.isfinite().all()


def test_three_equal_channels_count_as_one_narrower():
    assert math.isclose(13 / math.sqrt(3), 7.5056, abs_tol=1e-4)
    p, image = picture((12, 12))
    near = DenseCRF(1, intensity_sigma=13, backend="exact")(p.double(), image.double())
    torch.testing.assert_close(near, brute_force(p, image, 3, 3, 80, 13, 10, 1), atol=1e-9, rtol=0)


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"image must have shape \(1, 1, 4, 4\)"):
        DenseCRF()(torch.rand(1, 2, 4, 4), torch.rand(1, 1, 4, 5))
    with pytest.raises(ValueError, match="C >= 2"):
        DenseCRF()(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="backend must be one of"):
        DenseCRF(backend="lattice")
