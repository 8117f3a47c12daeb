"""The dense CRF as a transform: windows, spacing, masks and scores."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ichseg.crf import DenseCRF as CRF
from ichseg.transforms import DenseCRF, DenseCRFd, RefineWithCRF, gray_range


def test_crf_from_the_score_behind_the_mask():
    image = torch.zeros(1, 24, 24, 1)
    image[:, 8:16, 8:16] = 0.7
    score = 0.05 + 0.4 * (image > 0) + 0.02 * torch.rand(1, 24, 24, 1)
    mask = (score > 0.46).float()
    p = torch.cat([(1 - score) ** 4, score])
    expected = DenseCRF(iterations=2, argmax=False)(p / p.sum(0), image)
    refined = DenseCRFd("mask", score_key="score", unary="score", iterations=2, argmax=False)(
        {"mask": mask, "image": image, "score": score}
    )["mask"]
    torch.testing.assert_close(refined, expected)
    with pytest.raises(ValueError, match="needs a one-channel mask and the score map"):
        DenseCRF(unary="score")(mask, image)
    with pytest.raises(ValueError, match="unary must be one of label, score"):
        DenseCRF(unary="both")
    assert torch.equal(DenseCRF(unary="score", iterations=0)(mask, image, score), mask)
    assert torch.equal(DenseCRF(iterations=0)(1.5 * score, image), 1.5 * score)  # maps that are swept, not refined


def test_crf_follows_edges_and_takes_probabilities():
    image = torch.zeros(1, 24, 24, 2)
    image[:, 8:16, 8:16] = 0.7
    rough = torch.zeros(1, 24, 24, 2)
    rough[:, 9:17, 7:15, 0] = 1
    refined = DenseCRFd("mask", "image")({"mask": rough, "image": image})["mask"]
    assert torch.equal(refined[0, ..., 0] > 0, image[0, ..., 0] > 0) and refined[..., 1].sum() == 0
    p = torch.cat([1 - 0.7 * rough, 0.7 * rough])
    soft = DenseCRFd("mask", "image", argmax=False, iterations=1)({"mask": p, "image": image})["mask"]
    assert soft.shape == (2, 24, 24, 2)
    torch.testing.assert_close(soft.sum(0), torch.ones(24, 24, 2))


def test_crf_counts_in_mm_and_through_thick_slices():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 10, 12, 6, generator=generator)
    p = torch.rand(1, 10, 12, 6, generator=generator)
    affine = torch.diag(torch.tensor([-0.5, -0.5, 5.0, 1.0]))
    image = MetaTensor(values, affine=affine)
    options = dict(argmax=False, iterations=1, backend="exact", bilateral_sigma=4)
    both = torch.cat([1 - p, p])[None]
    gray = (values[None] * 255).round()

    def field(**crf):
        return CRF(1, bilateral_sigma=4, backend="exact", **crf)

    by_slice = torch.stack([field(spacing=(0.5, 0.5))(both[..., z], gray[..., z])[0] for z in range(6)], dim=-1)
    torch.testing.assert_close(DenseCRF(in_mm=True, **options)(p, image).as_tensor(), by_slice)
    whole = field(spacing=(5, 0.5, 0.5))(both.movedim(4, 2), gray.movedim(4, 2))[0].movedim(1, 3)
    torch.testing.assert_close(DenseCRF(in_mm=True, dimensions=3, **options)(p, image).as_tensor(), whole)
    in_pixels = field(spacing=(10, 1, 1))(both.movedim(4, 2), gray.movedim(4, 2))[0].movedim(1, 3)
    torch.testing.assert_close(DenseCRF(dimensions=3, **options)(p, image).as_tensor(), in_pixels)
    turned = MetaTensor(values.movedim(3, 1), affine=affine[:, [2, 0, 1, 3]])
    mine = DenseCRF(in_mm=True, dimensions=3, **options)(p.movedim(3, 1), turned).as_tensor()
    torch.testing.assert_close(mine.movedim(1, 3), whole)
    with pytest.raises(ValueError, match="need an image with an affine"):
        DenseCRF(in_mm=True)(p, values)


def test_crf_takes_single_images():
    values, p = torch.rand(1, 16, 20), torch.rand(1, 16, 20)
    expected = CRF(2)(torch.cat([1 - p, p])[None], (values[None] * 255).round())[0]
    torch.testing.assert_close(DenseCRF(argmax=False, iterations=2)(p, values), expected)
    labels = DenseCRFd("p", iterations=2)({"p": torch.cat([1 - p, p]), "image": values})["p"]
    assert labels.shape == (1, 16, 20) and torch.equal(labels[0], expected.argmax(0).float())


def test_the_window_comes_from_the_image_or_must_be_given():
    assert gray_range(torch.tensor([0.0, 1.0])) == (0, 1) and gray_range(torch.tensor([0.0, 200.0])) == (0, 255)
    hounsfield = torch.tensor([-1000.0, 40.0, 1500.0])
    for meta, expected in (
        ({"cal_min": np.array(-20.0), "cal_max": np.array(100.0)}, (-20, 100)),
        ({"cal_min": 0.0, "cal_max": 0.0, "0028|1050": "40\\300", "0028|1051": "80\\2000"}, (0, 80)),
        ({"00281050": {"vr": "DS", "Value": [50, 300]}, "00281051": {"vr": "DS", "Value": [130, 99]}}, (-15, 115)),
    ):
        assert gray_range(MetaTensor(hounsfield, meta=meta)) == expected
    for unexplained in (hounsfield, MetaTensor(hounsfield), MetaTensor(hounsfield, meta={"0028|1050": "none"})):
        with pytest.raises(
            ValueError, match=r"\(-1000 to 1500\) are not .* gives no window; .* set the values of black and white"
        ):
            gray_range(unexplained)
    # The window of the image as it was before it was scaled, or of one without air: not to be guessed.
    window = {"cal_min": -15.0, "cal_max": 115.0}
    for scaled in (torch.linspace(-3, 3, 9), torch.linspace(-1, 1, 9), torch.linspace(0, 80, 9)):
        with pytest.raises(ValueError, match=r"a window \(-15 to 115\) that may not apply to its values"):
            gray_range(MetaTensor(scaled, meta=window))
    assert gray_range(MetaTensor(torch.tensor([0.0, 0.7]), meta=window)) == (0, 1)
    for value in (np.array([40, 300]), torch.tensor([40.0])):
        assert gray_range(MetaTensor(hounsfield, meta={"0028|1050": value, "0028|1051": np.array([80])})) == (0, 80)
    values, mask = torch.rand(1, 16, 20) * 300 - 100, (torch.rand(1, 16, 20) > 0.4).float()
    named = MetaTensor(values, meta={"cal_min": -20.0, "cal_max": 100.0})
    scaled = ((values + 20) / 120).clamp(0, 1)
    expected = DenseCRF(iterations=1, argmax=False)(mask, scaled)
    torch.testing.assert_close(DenseCRF(iterations=1, argmax=False)(mask, named).as_tensor(), expected)
    given = DenseCRF(image_range=(-20, 100), iterations=1, argmax=False)(mask, values)
    torch.testing.assert_close(given, expected)


def test_what_is_no_probability_is_refused():
    image = torch.rand(1, 12, 12)
    for wrong in (torch.randn(2, 12, 12) * 5, torch.randint(0, 3, (1, 12, 12)).float()):
        with pytest.raises(
            ValueError, match=r"expected probabilities or a mask of 0 and 1, not values from .* AsDiscreted"
        ):
            DenseCRF()(wrong, image)
    with pytest.raises(ValueError, match=r"score \(1, 6, 6\) must have the shape of the mask"):
        DenseCRF(unary="score")((image > 0.5).float(), image, torch.rand(1, 6, 6))
    for options, said in (
        ({"label_probability": 0.2}, "label_probability must lie between"),
        ({"dimensions": 4}, "dimensions must be 2 or 3"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"image_range": (1, 0)}, "image_range must be"),
    ):
        with pytest.raises(ValueError, match=said):
            DenseCRF(**options)
    empty = torch.zeros(1, 12, 12, 0)
    assert DenseCRF()(empty, empty).shape == empty.shape
    array = DenseCRF(iterations=1)(np.float32(image > 0.5), image.numpy())
    assert torch.equal(array, DenseCRF(iterations=1)((image > 0.5).float(), image))


def test_the_page_names_the_defaults_of_all_options():
    page = (Path(__file__).parents[1] / "docs" / "dense_crf.md").read_text(encoding="utf-8")
    for owner in (RefineWithCRF, CRF):
        for name, option in inspect.signature(owner).parameters.items():
            if isinstance(option.default, str | bool | int | float) and name not in ("dimensions", "in_mm"):
                told = f'"{option.default}"' if isinstance(option.default, str) else option.default
                assert f"`{name}={told}`" in page or f"`{name}` {told}" in page, name


def test_what_the_channels_leave_is_background():
    """Outside of a crop probabilities are 0: nothing is there, and nothing is invented."""
    generator = torch.Generator().manual_seed(0)
    inside = torch.rand(3, 12, 12, 2, generator=generator).softmax(dim=0)
    padded = torch.zeros(3, 20, 20, 2)
    padded[:, 4:16, 4:16] = inside
    filled = padded.clone()
    filled[0] += (padded.sum(dim=0) == 0).float()
    image, before = torch.rand(1, 20, 20, 2, generator=generator) * 100, padded.clone()
    refine = RefineWithCRF(argmax=False, image_range=np.array([0, 100]))
    assert torch.equal(refine(padded, image), refine(filled, image)) and torch.equal(padded, before)
    assert not RefineWithCRF(image_range=(0, 100))(torch.zeros(3, 20, 20, 2), image).any()


def test_views_and_byte_orders_of_numpy_are_taken():
    random = np.random.default_rng(0)
    mask, image = (random.random((1, 10, 12)) > 0.5).astype(np.float32), random.random((1, 10, 12)) * 100
    refine = RefineWithCRF(image_range=(0, 100))
    expected = refine(mask.copy(), image.copy())
    backward = np.ascontiguousarray(image[:, ::-1])[:, ::-1]  # the same picture, stored from its last row
    assert backward.strides[1] < 0 and torch.equal(refine(mask.astype(">f4"), backward), expected)
