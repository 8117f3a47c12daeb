"""Brain is as bright near bone as in its middle; blood on one side stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ichseg.anatomy import cupping
from ichseg.anatomy.cupping import brain_depth
from ichseg.transforms import RemoveCupping, RemoveCuppingd

SIZE, SLICES, PIXEL, STEP = 128, 9, 1.5, 5.0
AMOUNT = 22.0  # HU at the inner table
MOST_LEFT = 0.25  # of it


def head(fade: float = 8.0, amount: float = 0.0, blood: str = "", seed: int = 0) -> np.ndarray:
    """(slices, H, W) HU: a skull around brain of 32 HU with noise of 4 HU."""
    rows, columns = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    radius = np.hypot(rows / 1.15, columns) * PIXEL
    angle = np.arctan2(columns, rows)
    depth = 70.0 - radius
    rng = np.random.default_rng(seed)
    scan = np.full((SLICES, SIZE, SIZE), -1000.0)
    for index in range(SLICES):
        brain = 32 + rng.normal(0, 4, (SIZE, SIZE)) + amount * np.exp(-np.maximum(depth, 0) / fade)
        if blood == "one side":
            brain[(depth < 12) & (np.abs(angle) < 1.3)] = 65
        elif blood == "middle":
            brain[radius < 30] = 65
        elif blood == "sliver" and index in (4, 5):
            brain[(depth < 4) & (np.abs(angle) < 0.3)] = 65
        scan[index][radius < 78] = 900
        scan[index][depth > 0] = brain[depth > 0]
    return scan.astype(np.float32)


@pytest.mark.parametrize("fade", [4.0, 8.0, 14.0])
def test_it_finds_what_was_added(fade):
    scan = head(fade, AMOUNT)
    found = cupping(scan, PIXEL, STEP)
    depth = np.stack([brain_depth(one, PIXEL) for one in scan])
    assert found.min() >= 0 and not found[depth <= 0].any()
    for low, high in ((3, 5), (6, 9), (10, 14)):
        ring = (depth > low) & (depth < high)
        added = AMOUNT * np.exp(-(low + high) / 2 / fade) - AMOUNT * np.exp(-25 / fade)
        assert found[ring].mean() == pytest.approx(added, abs=3.0)
    inner = (depth > 3) & (depth < 16)
    rim = np.median((scan - found)[inner]) - np.median((scan - found)[depth > 16])
    assert abs(rim) < MOST_LEFT * AMOUNT


def test_even_brain_stays():
    assert cupping(head(), PIXEL, STEP).max() < 2.5


@pytest.mark.parametrize("blood", ["one side", "middle", "sliver"])
def test_blood_stays(blood):
    scan = head(blood=blood)
    bright = scan == 65
    assert (scan - cupping(scan, PIXEL, STEP))[bright].mean() > 60
    both = head(8.0, AMOUNT, blood)
    left = (both - cupping(both, PIXEL, STEP))[bright & (ndimage.uniform_filter(bright.astype(float), (1, 5, 5)) > 0.9)]
    assert left.size or blood == "sliver"  # too thin to have an inside
    assert not left.size or left.mean() > 65 - AMOUNT - 3


def test_where_there_is_no_brain_nothing_changes():
    assert not cupping(np.full((3, 64, 64), -1000.0, np.float32), 1.0, STEP).any()
    assert not cupping(np.full((1, 64, 64), 40.0, np.float32), 1.0, STEP).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_transform_finds_slices_and_spacing(axis):
    scan = head(8.0, AMOUNT)
    affine = np.diag([PIXEL, PIXEL, 5.0, 1.0])
    order = [0, 1, 2]
    order[axis], order[2] = order[2], order[axis]
    volume = np.moveaxis(scan, 0, -1).transpose(order)
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, :3][:, order][order][:, order] if axis == 2 else affine[:3, :3][:, order]
    image = MetaTensor(torch.from_numpy(np.ascontiguousarray(volume))[None], affine=torch.from_numpy(turned))
    made = RemoveCuppingd("image")({"image": image})["image"]
    assert isinstance(made, MetaTensor) and torch.equal(made.affine, image.affine)
    expected = np.moveaxis(scan - cupping(scan, PIXEL, STEP), 0, -1).transpose(order)
    np.testing.assert_allclose(made.as_tensor()[0].numpy(), expected, atol=1e-3)


def test_plain_tensors_and_switching_it_off():
    scan = torch.from_numpy(np.moveaxis(head(8.0, AMOUNT), 0, -1).copy())[None]
    made = RemoveCupping(pixel_mm=PIXEL)(scan)
    assert not isinstance(made, MetaTensor) and made.shape == scan.shape and not torch.equal(made, scan)
    assert RemoveCupping(enabled=False)(scan) is scan
    with pytest.raises(ValueError, match="expected a volume"):
        RemoveCupping()(torch.zeros(3, 8, 8, 4))
