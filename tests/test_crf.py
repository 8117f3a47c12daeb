"""The dense CRF against worked numbers, brute force, and pydensecrf."""

from __future__ import annotations

import copy
import gc
import inspect
import math
import pickle
import weakref

import pytest
import torch
from subnormals import Subnormals

from ichseg.crf import DenseCRF
from ichseg.crf.axis import AxisProduct, gaussian_matrix
from ichseg.crf.filters import SpatialFilter, squared_distances
from ichseg.crf.grid import GridBilateralFilter, PixelGrid


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


def regions(size, labels=3):
    """Probabilities that differ from region to region, so that pixels have something to tell each other."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(1, labels, 4, 4, generator=generator) / 2
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").softmax(1)


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


IMAGES = {
    "smooth": lambda: picture((64, 64))[1],
    "noise": lambda: (torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(3)) * 255).round(),
    "between levels": lambda: torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(4)) * 255,
    "constant": lambda: torch.full((1, 1, 64, 64), 93.7),
    "few pixels wide": lambda: picture((64, 64))[1][..., :3],
    "hounsfield": lambda: picture((64, 64))[1] * 10 - 1000,
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("settings", [{}, {"bilateral_sigma": 20}, {"bilateral_sigma": 6}, {"intensity_sigma": 4}])
def test_grid_is_near_to_exact(image, settings):
    gray = IMAGES[image]()
    p = regions(gray.shape[2:])
    exact = DenseCRF(1, backend="exact", **settings)(p.double(), gray.double())
    # Not saturated, or an error of the kernels would not show.
    assert (exact - p).abs().mean() > 0.05 and exact.quantile(0.9) < 0.99
    mine = DenseCRF(1, **settings)(p, gray)
    assert (mine - exact).abs().mean() < 7e-4  # sigmas 10 % off give more
    assert (mine.argmax(1) != exact.argmax(1)).sum() <= max(1, 0.001 * gray.numel())


@pytest.mark.parametrize(
    ("shape", "axis"), [((300,), 0), ((3, 250), 1), ((250, 3), 0), ((2, 129, 4), 1), ((2, 3, 70), 2)]
)
@pytest.mark.parametrize("sigma", [0.5, 3.0, 9.0])
def test_a_product_in_blocks_is_that_with_the_whole_matrix(shape, axis, sigma):
    n = shape[axis]
    places = torch.arange(n, dtype=torch.float64)
    bent = gaussian_matrix(places, places, sigma) * (1 + places[:, None] / n)  # no two blocks are alike
    values = torch.randn(5, *shape)[2:3][0]  # somewhere in a larger memory
    for matrix, runs in ((gaussian_matrix(places, places, sigma), (0, 1, 2, 3, 4, 5)), (bent, range(20))):
        product = AxisProduct(matrix, values.device, values.dtype)
        assert len(product.runs) in runs
        expected = torch.tensordot(matrix, values.double(), ([1], [axis])).movedim(0, axis)
        torch.testing.assert_close(product(values, axis).double(), expected, rtol=1e-5, atol=1e-5)
    several = AxisProduct(gaussian_matrix(places, places, sigma), values.device, values.dtype)
    if sigma == 3 and n > 100:
        assert max((run.count for run in several.runs), default=9) > 1


@pytest.mark.parametrize("size", [(5, 7), (16, 24)])
def test_a_filter_leaves_what_it_is_given(size):
    image, values = torch.randint(0, 256, (1, 1, *size)).float(), torch.rand(1, 2, *size)
    for kernel in (
        GridBilateralFilter(image, PixelGrid(size, (9, 9), image.device, image.dtype), 7.5),
        SpatialFilter(size, (3, 3), image.device, image.dtype),
    ):
        before = values.clone()
        kernel(values)
        assert torch.equal(values, before)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20, 0.0])
def test_sums_in_integers_are_the_same_in_any_order(scale):
    """What a GPU does, on the CPU."""
    image = torch.cat([IMAGES["noise"](), IMAGES["smooth"]()])
    grid = GridBilateralFilter(image, PixelGrid((64, 64), (20, 20), image.device, image.dtype), 7.5)
    values = torch.randn(2, 64 * 64) * scale
    whole = grid._spread_in_integers(values)
    torch.testing.assert_close(whole, grid._spread(values, torch.empty_like(values)), rtol=1e-4, atol=1e-5 * scale)
    order = torch.randperm(values.numel())
    shuffled = copy.copy(grid)
    shuffled.index = grid.index[order]
    shuffled.corners = [(step, share.expand(2, -1).reshape(1, -1)[:, order]) for step, share in grid.corners]
    assert torch.equal(shuffled._spread_in_integers(values.reshape(1, -1)[:, order]), whole)


def test_grid_is_near_to_exact_in_volumes_and_thick_slices():
    p, image = picture((8, 24, 28), labels=2)
    for settings in ({}, {"spacing": (5, 0.5, 0.5), "bilateral_sigma": 10}, {"spacing": (5, 0.5, 0.5)}):
        exact = DenseCRF(1, backend="exact", **settings)(p.double(), image.double())
        assert (DenseCRF(1, **settings)(p, image) - exact).abs().mean() < 3e-4


def test_cost_is_linear_in_pixels():
    """Counted in multiplications of matrices, which are all that could grow faster."""

    def multiplications(n):
        from torch.utils.flop_counter import FlopCounterMode

        p, image = picture((n, n))
        with FlopCounterMode(display=False) as counter:
            DenseCRF(1)(p, image)
        return counter.get_total_flops()

    assert multiplications(512) < 4.4 * multiplications(256)


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
    assert crf(a[:0], x[:0]).shape == (0, 2, 32, 32)


def test_threads_change_no_bit_and_are_given_back():
    pairs = [picture(seed=seed) for seed in range(5)]
    p, image = torch.cat([a for a, _ in pairs]), torch.cat([x for _, x in pairs])
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode(threads == 3):
                results.append(DenseCRF(3)(p, image).clone())
            assert torch.get_num_threads() == threads
        assert torch.equal(*results) and results[1].is_inference()
        p.requires_grad_(True)
        assert DenseCRF(1)(p, image).requires_grad
        with torch.no_grad():
            assert not DenseCRF(1)(p, image).requires_grad
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["grid", "exact"])
@pytest.mark.parametrize("labels", [2, 3])
def test_the_order_of_numbers_in_memory_does_not_matter(backend, labels):
    p, image = picture((18, 26), labels)
    expected = DenseCRF(2, backend=backend)(p, image)

    def turned(values):
        return values.transpose(2, 3).contiguous().transpose(2, 3)

    def last(values):
        return values.contiguous(memory_format=torch.channels_last)

    for a in (turned, last):
        for b in (turned, last):
            torch.testing.assert_close(DenseCRF(2, backend=backend)(a(p), b(image)), expected)
    kernel = GridBilateralFilter(image, PixelGrid((18, 26), (9, 9), image.device, image.dtype), 7.5)
    torch.testing.assert_close(kernel(turned(p)), kernel(p))


def test_kernels_that_are_kept_never_answer_for_others():
    (p, image), (q, other) = picture(seed=1), picture((20, 20), seed=2)
    crf = DenseCRF(1)
    for change in (
        {},
        {"iterations": 2},
        {"spatial_weight": 1.0},
        {"bilateral_sigma": 9.0},
        {"intensity_sigma": 30.0},
        {"spatial_sigma": 1.0},
        {"bilateral_weight": 0},
        {"backend": "exact"},
    ):
        for name, value in change.items():
            setattr(crf, name, value)
        settings = {n: v for n, v in vars(crf).items() if n in inspect.signature(DenseCRF).parameters}
        for a, x in ((p, image), (q, other), (p, image)):
            assert torch.equal(crf(a, x), DenseCRF(**settings)(a, x))
    spaced = crf(p, image, spacing=(0.5, 2))
    assert torch.equal(spaced, DenseCRF(**{**settings, "spacing": (0.5, 2)})(p, image))
    assert not torch.equal(spaced, crf(p, image))
    assert torch.equal(copy.deepcopy(crf)(p, image), pickle.loads(pickle.dumps(crf))(p, image))


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [{}, {"bilateral_sigma": 10}, {"spatial_sigma": 0.5, "intensity_sigma": 3}, {"bilateral_weight": 0}],
)
def test_nothing_becomes_subnormal(settings, labels):
    """Intel processors take a hundred times longer to multiply such numbers, and flushing them is up to each thread."""
    image = torch.full((1, 1, 96, 80), 30.0)
    image[..., 20:70, 20:60] = 100 + torch.arange(40) % 5
    image[..., 40:50, 30:40], image[..., 5, 5] = 160, 255
    first = (image == 160).float()
    p = torch.cat([1 - first, first, *[torch.zeros_like(first)] * (labels - 2)], dim=1)  # certain
    with Subnormals() as counted:
        DenseCRF(10, **settings)(p, image)
        DenseCRF(2, **settings, backend="exact")(p[..., 30:60, 20:50], image[..., 30:60, 20:50])
    assert sum(counted.found.values()) == 0 and len(counted.found) > 10, counted.found.most_common(3)


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


@pytest.mark.parametrize("backend", ["grid", "exact"])
@pytest.mark.parametrize("labels", [2, 3])
def test_gradients_are_those_of_finite_differences(backend, labels):
    p, image = picture((5, 6), labels)
    pair = torch.cat([p, p.flip(2)]).double().requires_grad_(True)
    crf = DenseCRF(2, bilateral_sigma=4, backend=backend, spatial_weight=0.5, bilateral_weight=0.7)
    images = torch.cat([image, image.flip(2)])
    assert torch.autograd.gradcheck(lambda x: crf(x, images), pair)


def test_a_weight_that_is_a_tensor_may_change():
    p, image = picture((10, 10))
    weight = torch.tensor(0.0)
    crf = DenseCRF(1, spatial_weight=weight, bilateral_weight=0)
    torch.testing.assert_close(crf(p, image), p)
    weight.fill_(5.0)
    torch.testing.assert_close(crf(p, image), DenseCRF(1, spatial_weight=5.0, bilateral_weight=0)(p, image))


def test_as_a_layer_its_weights_are_trained():
    torch.manual_seed(0)
    p, image = picture((12, 12))
    crf = DenseCRF(
        2, spatial_weight=torch.nn.Parameter(torch.tensor(0.0)), bilateral_weight=torch.nn.Parameter(torch.tensor(0.5))
    )
    p, image = torch.cat([p, p.flip(2)]), torch.cat([image, image.flip(3)])
    target = DenseCRF(2, spatial_weight=1.0, bilateral_weight=0.2)(p, image)
    assert {name for name, _ in crf.named_parameters()} == {"spatial_weight", "bilateral_weight"}
    optimizer = torch.optim.Adam(crf.parameters(), 0.1)
    for _ in range(120):
        optimizer.zero_grad()
        ((crf(p, image) - target) ** 2).mean().backward()
        optimizer.step()
    assert crf.spatial_weight.item() == pytest.approx(1.0, abs=0.05)
    assert crf.bilateral_weight.item() == pytest.approx(0.2, abs=0.05)
    layer = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Softmax(1))
    with torch.autocast("cpu", torch.bfloat16):
        out = crf(layer(image / 255), image)
    out[:, 1].mean().backward()
    assert out.dtype == torch.float32 and layer[0].weight.grad.abs().sum() > 0


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
    for name in ("spatial_sigma", "bilateral_sigma", "intensity_sigma"):
        for value in (math.nan, math.inf, 0, -1):
            with pytest.raises(ValueError, match="the sigmas must be positive"):
                DenseCRF(**{name: value})
    with pytest.raises(ValueError, match="the weights must be finite"):
        DenseCRF(bilateral_weight=math.nan)
    with pytest.raises(ValueError, match="has no gradient"):
        DenseCRF(backend="pydensecrf")(torch.rand(1, 2, 4, 4).requires_grad_(True), torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="spacing must be positive"):
        DenseCRF(spacing=(1, 0))
    with pytest.raises(ValueError, match="spacing has 3 entries, but the image has 2"):
        DenseCRF(spacing=(1, 1, 1))(torch.rand(1, 2, 4, 4), torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="image must be finite"):
        DenseCRF()(torch.rand(1, 2, 4, 4), torch.full((1, 1, 4, 4), math.nan))
    with pytest.raises(ValueError, match="too large for an intensity sigma"):
        DenseCRF(intensity_sigma=0.01)(torch.rand(1, 2, 4, 4), torch.rand(1, 1, 4, 4) * 1e6)


# --- what people hand over by mistake ---------------------------------------------------------------------------------
def test_logits_and_images_on_another_scale_are_refused():
    torch.manual_seed(0)
    image, logits = torch.rand(2, 1, 16, 16) * 255, torch.randn(2, 2, 16, 16) * 4
    p = logits.softmax(1)
    for backend in ("grid", "exact"):
        crf = DenseCRF(1, backend=backend)
        with pytest.raises(ValueError, match="apply softmax to logits"):
            crf(logits, image)
        for wrong in (image / 255, image / 127.5 - 1):
            with pytest.raises(ValueError, match="multiply by 255"):
                crf(p, wrong)
        mixed = torch.stack([image[0], image[1] / 255])
        with pytest.raises(ValueError, match="image 1 of the batch has values from"):
            crf(p, mixed)
        # On any scale the same: an image of one value; and gray levels that are known may be dark.
        assert crf(p, torch.ones_like(image)).isfinite().all()
        assert crf.refine(p, (image > 128).float()).isfinite().all()
        hair = p + torch.tensor([1e-5, -1e-5])[None, :, None, None]
        assert crf(hair, image).isfinite().all()


@pytest.mark.parametrize("backend", ["grid", "exact"])
def test_backward_within_autocast(backend):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(1, 2, 3, padding=1)
    x = torch.rand(2, 1, 32, 32)
    crf, gradients = DenseCRF(2, backend=backend), []
    for inside in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = crf(layer(x).softmax(1), x * 255)[:, 1].mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["grid", "exact"])
@pytest.mark.parametrize("batch", [1, 2])
def test_tracing_is_refused(batch, backend):
    """It would keep the gray levels, and lose the checks, of the one image it saw."""
    p, image = torch.rand(batch, 2, 16, 16).softmax(1), torch.rand(batch, 1, 16, 16) * 255
    with pytest.raises(RuntimeError, match="cannot be traced"):
        torch.jit.trace(DenseCRF(2, backend=backend), (p, image))


def test_standardized_images_are_refused_and_dark_ones_are_not():
    torch.manual_seed(0)
    p, image = torch.rand(1, 2, 16, 16).softmax(1), torch.rand(1, 1, 16, 16) * 255
    for wrong in ((image - image.mean()) / image.std(), image / 255 * 1.05):
        with pytest.raises(ValueError, match="multiply by 255"):
            DenseCRF(1)(p, wrong)
    assert DenseCRF(1)(p, (image / 60).round()).isfinite().all()


def test_levels_whose_difference_is_rounded_have_a_node_each():
    """In double, 100.1 and 0.1 are less than 100 levels apart; in float32, of which the nodes are counted, they are."""
    image = torch.full((1, 1, 12, 12), 0.1)
    image[..., 4:, :] = 100.1
    p = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    p = torch.cat([1 - p, p], 1)
    found = DenseCRF(iterations=2)(p, image)
    torch.testing.assert_close(found, DenseCRF(iterations=2, backend="exact")(p, image), atol=5e-3, rtol=0)


def test_a_batch_has_no_node_in_common():
    """As on a GPU, where all images of a batch lie in one grid: a value of one image never reaches another."""
    images = torch.full((2, 1, 12, 12), 0.1)
    images[0, :, 4:] = 100.1
    grid = PixelGrid((12, 12), (20.0, 20.0), torch.device("cpu"), torch.float32)
    values = torch.zeros(2, 1, 12, 12)
    values[0] = 1
    found = GridBilateralFilter(images, grid, 7.5)(values)
    assert float(found[1].abs().max()) == 0 and float(found[0].min()) > 0


def test_what_was_made_goes_with_the_last_reference():
    """Not only when the garbage collector looks for cycles: a grid holds ten times an image."""
    crf = DenseCRF(iterations=1)
    crf(torch.full((1, 2, 16, 16), 0.5), torch.arange(256.0).reshape(1, 1, 16, 16))
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(crf)
        del crf
        assert reference() is None
    finally:
        gc.enable()


def test_squared_distances_of_a_gpu_are_those_of_a_cpu():
    generator = torch.Generator().manual_seed(0)
    some, others = (torch.rand(2, count, 3, generator=generator, dtype=torch.float64) for count in (5, 7))
    torch.testing.assert_close(squared_distances(some, others), torch.cdist(some, others).square())
