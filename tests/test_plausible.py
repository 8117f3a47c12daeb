"""Masks nobody should believe are flagged; hemorrhage is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ichseg.anatomy import intracranial_mask, mask_doubts, midline_of, on_grid, shell_of
from ichseg.folder.measure_masks import measure_with_doubts
from ichseg.synthetic.phantom import phantom_scan
from ichseg.transforms import RemoveShelld

KINDS = ("EDH", "IPH", "IVH", "SDH")


def doubts(mask, head, image=None):
    image = (head.image if image is None else image).astype(np.float32)
    return "; ".join(mask_doubts(mask, head.affine, image, head.affine, 2, midline_of(image, head.affine, 2)))


@pytest.mark.parametrize("turned", [(0, 0, 0), (0.1, -0.3, 0.2)])
def test_every_place_of_a_grid_gets_its_nearest_voxel(turned):
    random = np.random.default_rng(0)
    mask, shape = random.random((12, 15, 6)) > 0.5, (9, 10, 7)
    affine, grid = np.diag([0.5, 0.6, 5.0, 1.0]), np.diag([0.9, 0.7, 4.0, 1.0])[:, [1, 0, 2, 3]]
    grid[:3, :3] = Rotation.from_euler("xyz", turned).as_matrix() @ grid[:3, :3]
    grid[:3, 3] = -0.713, 0.371, -1.317  # no place lies midway
    expected = np.zeros(shape, bool)
    for place in np.ndindex(shape):
        voxel = np.rint(np.linalg.solve(affine, grid @ [*place, 1])[:3]).astype(int)
        expected[place] = (voxel >= 0).all() and (voxel < mask.shape).all() and mask[tuple(voxel)]
    assert expected.any() and np.array_equal(on_grid(mask, affine, shape, grid), expected)


def brain_of(head):
    return np.stack([intracranial_mask(one.astype(np.float32)) for one in np.moveaxis(head.image, 2, 0)], -1)


def rim_of(head, width=3):
    return brain_of(head) & ~np.stack(
        [ndimage.binary_erosion(one, iterations=width) for one in np.moveaxis(brain_of(head), 2, 0)], -1
    )


@pytest.fixture(scope="module")
def head():
    return phantom_scan(seed=2, subtypes=("SDH",), size=192, slices=20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, (-10, 90), (0, 100)])
def test_hemorrhage_is_believed(kind, window):
    for seed in (1, 5):
        made = phantom_scan(seed=seed, subtypes=(kind,), size=160, slices=16)
        image = made.image if window is None else made.image.clip(*window)
        assert doubts(made.label > 0, made, image) == ""


@pytest.mark.parametrize("window", [None, (-10, 90), (0, 100)])
def test_a_ring_along_the_skull_is_not(head, window):
    image = head.image if window is None else head.image.clip(*window)
    said = doubts(rim_of(head), head, image)
    assert "all the way around the skull" in said


def test_the_same_on_both_sides_is_not(head):
    rim, x = rim_of(head), np.arange(192)[:, None, None]
    y = np.arange(192)[None, :, None]
    both = rim & (np.abs(y - 96) < 25) & ((x < 70) | (x > 122))  # two strips, left and right
    assert "nearly symmetric along the skull" in doubts(both, head)
    assert doubts(both & (x < 96), head) == ""  # one of them may be blood


def test_more_than_a_skull_holds_is_not(head):
    assert "implausibly large" in doubts(np.ones(head.image.shape, bool), head)
    ball = brain_of(head) & (np.arange(192)[:, None, None] < 96)
    assert "of the space inside the skull: implausibly large" in doubts(ball, head)
    nothing_known = np.full(head.image.shape, -1000.0)
    assert "implausibly large" in doubts(np.ones(head.image.shape, bool), head, nothing_known)
    assert doubts(np.zeros(head.image.shape), head) == ""


def test_masks_and_scans_may_lie_on_different_grids(head):
    """As the mask on the scan's own grid, and the scan cut to the head and turned."""
    ring = rim_of(head)
    image = head.image[10:180:2, 5:185:2, ::-1].astype(np.float32)
    grid = head.affine @ np.array([[2, 0, 0, 10], [0, 2, 0, 5], [0, 0, -1, 19], [0, 0, 0, 1.0]])
    found = mask_doubts(ring, head.affine, image, grid, 2, midline_of(image, grid, 2))
    assert any("all the way around" in one for one in found)


def test_measuring_says_it_too(head):
    _, said = measure_with_doubts(rim_of(head).astype(np.uint8), head.affine, head.image)
    assert any("all the way around" in one for one in said)


@pytest.mark.parametrize("kind", [*KINDS, "SAH"])
def test_hemorrhage_is_no_shell(kind):
    for seed in (1, 5):
        made = phantom_scan(seed=seed, subtypes=(kind,), size=160, slices=16)
        image = made.image.astype(np.float32)
        for seen in (image, image.clip(0, 100)):  # 0 to 100 HU: the window of the recommended model
            assert not shell_of(made.label > 0, made.affine, seen, made.affine, 2).any()


def test_a_shell_goes_and_what_lies_deeper_stays(head):
    ring, lesion = rim_of(head), np.zeros(head.image.shape, bool)
    lesion[90:102, 80:92, 8:11] = brain_of(head)[90:102, 80:92, 8:11]
    gaps = ring.copy()
    gaps[:60, 60:90] = False  # a shell is not whole in every direction
    for shell in (ring, gaps):
        left_out = shell_of(shell | lesion, head.affine, head.image.astype(np.float32), head.affine, 2)
        assert not (left_out & lesion).any() and left_out[shell].mean() > 0.95
    half = ring & (np.arange(192)[:, None, None] < 96)  # a subdural over one whole side
    assert not shell_of(half | lesion, head.affine, head.image.astype(np.float32), head.affine, 2).any()


def test_a_shell_on_another_grid_than_the_scans(head):
    grid = head.affine @ np.array([[2, 0, 0, 10], [0, 2, 0, 5], [0, 0, -1, 19], [0, 0, 0, 1.0]])
    image, ring = head.image[10:180:2, 5:185:2, ::-1].astype(np.float32), rim_of(head)
    assert shell_of(ring, head.affine, image, grid, 2)[ring].mean() > 0.95


def test_a_shell_along_another_axis_and_in_thin_slices(head):
    image, ring = head.image.astype(np.float32), rim_of(head)
    turned = head.affine[:, [2, 0, 1, 3]]
    found = shell_of(np.moveaxis(ring, 2, 0), turned, np.moveaxis(image, 2, 0), turned, 0)
    assert np.array_equal(np.moveaxis(found, 0, 2), shell_of(ring, head.affine, image, head.affine, 2)) and found.any()
    thin = head.affine @ np.diag([1, 1, 0.25, 1])
    finer = [np.repeat(one, 4, axis=2) for one in (ring, image)]
    assert shell_of(finer[0], thin, finer[1], thin, 2)[finer[0]].mean() > 0.95


def test_how_much_of_a_shell_was_left_out_is_said(head):
    ring = rim_of(head)
    image = MetaTensor(torch.from_numpy(((head.image + 15) / 130).clip(0, 1))[None], affine=head.affine)
    item = {"pred": MetaTensor(torch.from_numpy(ring)[None].byte(), affine=head.affine), "image": image, "flags": ["a"]}
    found = RemoveShelld("pred")(item)
    ml = (ring & ~found["pred"].numpy()[0].astype(bool)).sum() * abs(np.linalg.det(head.affine)) / 1000
    assert found["pred"].sum() < 0.05 * ring.sum() and found["pred"].dtype == torch.uint8
    assert found["flags"][0] == "a" and found["flags"][1].startswith(f"{ml:.1f} mL all the way around the skull")
    assert RemoveShelld("pred", enabled=False)(item)["pred"].sum() == ring.sum() and item["flags"] == ["a"]


@pytest.mark.parametrize("name", ["0161", "0166", "0029", "0004"])
def test_real_rings_and_real_hemorrhage(name):
    from conftest import REAL

    folder = REAL / "external" / "phe_sich"
    if not folder.is_dir():
        pytest.skip("real scans are not here")
    truth = next((folder / "masks").glob(f"{name}*"))
    scan = folder / "images" / f"{name}.nii.gz"
    measured, said = measure_with_doubts(truth, image=scan)
    assert not said and measured["side"] in ("left", "right", "both")
