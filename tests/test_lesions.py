"""What a mask measures: computed for shapes whose measures are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ichseg.anatomy import Plane, mid_sagittal_plane
from ichseg.metrics import measure_mask, without_small_holes, without_small_lesions
from ichseg.transforms import FillSmallHolesd, MeasureHemorrhaged, RemoveSmallLesions

SPACING = np.diag([0.5, 0.5, 5.0, 1.0])


def grid(shape, affine=SPACING):
    """Voxel centers in mm, (X, Y, Z, 3)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def ellipsoid(half_axes, shape=(160, 160, 20), affine=SPACING, turn=0.0):
    places = grid(shape, affine)
    away = places - places[tuple(n // 2 for n in shape)]
    c, s = np.cos(turn), np.sin(turn)
    away = away @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]).T
    return ((away / np.array(half_axes)) ** 2).sum(axis=-1) <= 1


@pytest.mark.parametrize("turn", [0.0, 0.4, np.pi / 4, 1.3])
def test_abc_of_an_ellipsoid(turn):
    found = measure_mask(ellipsoid((30, 18, 24), turn=turn), SPACING)
    assert found["a_cm"] == pytest.approx(6.0, abs=0.1)
    assert found["b_cm"] == pytest.approx(3.6, abs=0.1)
    # 5 mm slices at 0, 5, ..., 20 mm from the middle: areas 1, .96, .83, .61, .31 -> 5 whole and 4 half ones
    assert found["c_cm"] == pytest.approx(3.5)
    assert found["abc2_ml"] == pytest.approx(found["a_cm"] * found["b_cm"] * found["c_cm"] / 2, rel=0.02)
    assert found["volume_ml"] == pytest.approx(4 / 3 * np.pi * 3 * 1.8 * 2.4, rel=0.02)
    assert found["lesions"] == 1 and found["largest_ml"] == found["volume_ml"] and found["largest_slice"] == 11
    assert found["over_30_ml"] is True and found["over_60_ml"] is False and "side" not in found


def test_a_slice_counts_for_c_by_its_share():
    mask = np.zeros((20, 20, 6), bool)
    for index, pixels in enumerate([20, 15, 14, 5, 4]):  # of 20: whole, half (75 %), half, half (25 %), nothing
        mask[:pixels, 3, index] = True
    assert measure_mask(mask, np.diag([1, 1, 4, 1]))["c_cm"] == pytest.approx((1 + 3 * 0.5) * 0.4)


def test_b_is_across_a_and_not_around_it():
    ring = grid((101, 101, 1), np.eye(4))[..., :2] - 50
    radius = np.hypot(*np.moveaxis(ring, -1, 0))
    crescent = (radius <= 40) & (radius >= 34) & (ring[..., 1] < -8)
    found = measure_mask(crescent, np.eye(4))
    assert found["a_cm"] == pytest.approx(2 * np.sqrt(40**2 - 9**2) / 10, abs=0.15)
    # at right angles to A no line in it is longer than its arms, though it is 32 pixels high
    assert 1.0 <= found["b_cm"] < 2.0


def test_tilt_changes_neither_volume_nor_c():
    tilted = SPACING.copy()
    tilted[1, 2] = 2.0  # each slice is shifted backwards: a sheared grid
    mask = ellipsoid((30, 18, 24))
    straight, sheared = measure_mask(mask, SPACING), measure_mask(mask, tilted)
    for name in ("volume_ml", "largest_ml", "a_cm", "b_cm", "c_cm", "abc2_ml"):
        assert sheared[name] == straight[name], name


def test_slices_along_any_axis():
    mask, affine = ellipsoid((30, 18, 24)), SPACING
    plain = measure_mask(mask, affine)
    turned = measure_mask(np.moveaxis(mask, 2, 0), affine[:, [2, 0, 1, 3]], slice_axis=0)
    assert turned == plain


def test_an_empty_mask_has_no_sizes():
    found = measure_mask(np.zeros((4, 4, 4)), np.eye(4), midline=Plane((1, 0, 0), 0))
    assert found == {"volume_ml": 0.0, "lesions": 0, "over_30_ml": False, "over_60_ml": False}


def test_one_voxel_measures_itself():
    mask = np.zeros((4, 4, 4))
    mask[1, 2, 3] = 1
    found = measure_mask(mask, np.diag([2.0, 2.0, 5.0, 1.0]))
    assert (found["volume_ml"], found["lesions"], found["largest_slice"], found["c_cm"]) == (0.02, 1, 4, 0.5)
    assert found["a_cm"] == pytest.approx(0.28, abs=0.01)  # corner to corner
    assert 0.13 <= found["b_cm"] <= 0.29


def test_small_lesions_are_left_out_by_their_volume():
    mask = np.zeros((20, 20, 4))
    mask[:10, :10, 0] = 1  # 100 voxels
    mask[15, 15:19, 2] = 1  # 4 voxels
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    assert without_small_lesions(mask, affine, 0.0).sum() == 104
    assert without_small_lesions(mask, affine, 0.02).sum() == 104  # exactly the limit stays
    kept = without_small_lesions(mask, affine, 0.021)
    assert kept.sum() == 100 and kept[:10, :10, 0].all()
    assert without_small_lesions(mask, affine, 9.0).sum() == 0
    with pytest.raises(ValueError, match="min_volume_ml"):
        RemoveSmallLesions(-1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_on_its_own_is_taken_to_be_5_mm_thick_at_least(axis):
    mask = np.zeros((20, 20, 2))
    mask[:10, :10] = 1  # 100 pixels of 1 mm2 a slice
    slanted = np.array([0.0, 0.6, 0.8])  # 1 mm long, planes 0.8 mm apart
    for step, depth, limit, left in (
        (np.array([0, 0, 1.0]), 1, 0.5, True),
        (np.array([0, 0, 1.0]), 1, 0.51, False),
        (np.array([0, 0, 1.0]), 2, 0.2, True),  # two slices are as thick as they say
        (np.array([0, 0, 1.0]), 2, 0.21, False),
        (np.array([0, 0, 8.0]), 1, 0.8, True),
        (np.array([0, 0, 8.0]), 1, 0.81, False),
        (slanted, 1, 0.5, True),
        (slanted, 1, 0.51, False),
    ):
        affine = np.eye(4)
        affine[:3, :3] = np.insert(np.eye(3)[:, :2], axis, step, axis=1)
        voxels = np.moveaxis(mask[..., :depth], 2, axis)
        volume = MetaTensor(
            torch.from_numpy(voxels.astype(np.uint8))[None].contiguous(), affine=torch.from_numpy(affine)
        )
        assert bool(RemoveSmallLesions(limit)(volume).any()) == left
    alone = torch.from_numpy(mask[None, ..., :1])
    unit = (1, 1, 1)
    assert RemoveSmallLesions(0.5, unit)(alone).any() and not RemoveSmallLesions(0.51, unit)(alone).any()
    with pytest.raises(ValueError, match="needs an affine in mm"):
        RemoveSmallLesions(0.5)(alone)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_small_holes_are_filled_slice_by_slice(axis):
    mask = np.zeros((24, 24, 3))
    mask[1:23, 1:23, 1:] = 1
    mask[3:5, 3:6, 1:] = 0  # 6 pixels of 0.5 x 2 mm, in two slices: each is a hole of its own
    mask[10:20, 10:20, 1] = 0  # 100 pixels
    mask[14, 14, 1] = 1
    mask[22, 12, 1] = mask[21, 12, 1] = 0  # open to the outside
    mask[5, 7:9, 0] = mask[4, 6, 0] = mask[6, 6, 0] = mask[5, 5, 0] = 1  # closed by corners
    wanted = mask.copy()
    wanted[3:5, 3:6, 1:] = wanted[5, 6, 0] = 1
    columns = np.diag([0.5, 2.0, 5.0])
    columns[1, 0] = 0.3  # sheared in its plane: the area stays
    affine = np.eye(4)
    affine[:3, :3] = np.insert(columns[:, :2], axis, columns[:, 2], axis=1)
    turned = np.moveaxis(mask, 2, axis)
    assert np.array_equal(without_small_holes(turned, affine, 6.0, axis), np.moveaxis(wanted, 2, axis))
    assert without_small_holes(turned, affine, 5.9, axis).sum() == mask.sum() + 1
    assert without_small_holes(turned, affine, 99.0, axis).sum() == 2 * 22 * 22 - 2 + 6
    plain = FillSmallHolesd("mask", 6.0, (1, 1, 1))({"mask": torch.from_numpy(mask)[None]})["mask"]
    assert np.array_equal(plain[0] > 0, without_small_holes(mask, np.eye(4), 6.0))
    volume = MetaTensor(torch.from_numpy(turned.astype(np.uint8))[None], affine=torch.from_numpy(affine))
    filled = FillSmallHolesd("mask", 6.0)({"mask": volume})["mask"]
    assert filled.dtype == torch.uint8
    assert np.array_equal(filled[0].numpy(), np.moveaxis(wanted, 2, axis))
    assert not without_small_holes(np.zeros((3, 3, 3)), affine, 9.0).any()
    with pytest.raises(ValueError, match="max_area_mm2"):
        FillSmallHolesd("mask", -1)


def head(yaw=0.0, shift=0.0, affine=None, shape=(96, 112, 20)):
    """An egg-shaped brain, turned about the long axis of the patient and shifted to the right."""
    affine = np.diag([2.0, 2.0, 6.0, 1.0]) if affine is None else affine
    places = grid(shape, affine) - grid(shape, affine).reshape(-1, 3).mean(axis=0) - np.array([shift, 0, 0])
    c, s = np.cos(yaw), np.sin(yaw)
    x, y, z = np.moveaxis(places @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]).T, -1, 0)
    return (x / (60 + 0.15 * y)) ** 2 + (y / 80) ** 2 + (z / 55) ** 2 <= 1


@pytest.mark.parametrize(("yaw", "shift"), [(0, 0), (0.3, 0), (-0.4, 12), (0, -15)])
@pytest.mark.parametrize("flip", [1, -1])
def test_the_midline_follows_the_head(yaw, shift, flip):
    affine = np.diag([2.0 * flip, 2.0, 6.0, 1.0])
    affine[:3, 3] = [flip * -95, 30, -200]
    brain = head(yaw, shift, affine)
    plane = mid_sagittal_plane(brain, affine)
    # Mirrored halves about the true plane of this egg: x cos + y sin = 0 in its own frame.
    middle = grid(brain.shape, affine).reshape(-1, 3).mean(axis=0) + np.array([shift, 0, 0])
    assert abs(plane.distance_mm(middle[None])[0]) < 2.0
    normal = np.array([np.cos(yaw), np.sin(yaw), 0])
    assert abs(np.array(plane.normal) @ normal) > np.cos(0.06)
    assert plane.normal[0] > 0  # to the patient's right


def test_the_side_is_the_patients():
    affine = np.diag([-2.0, 2.0, 6.0, 1.0])  # first axis to the left
    brain = head(affine=affine)
    plane = mid_sagittal_plane(brain, affine)
    mask = np.zeros(brain.shape, bool)
    mask[20:30, 50:60, 8:10] = True  # low index: right of the patient
    assert measure_mask(mask, affine, midline=plane)["side"] == "right"
    assert measure_mask(mask[::-1], affine, midline=plane)["side"] == "left"
    assert measure_mask(mask | mask[::-1], affine, midline=plane)["side"] == "both"
    assert mid_sagittal_plane(np.zeros((8, 8, 8), bool), affine) is None


def test_no_side_without_an_orientation(phantoms):
    from monai.transforms import Compose, CopyItemsd, LoadImaged

    from ichseg.transforms import BrainWindowd, HeadCTReader

    load = Compose([LoadImaged("image", reader=HeadCTReader(), ensure_channel_first=True), BrainWindowd("image"),
                    CopyItemsd("image", names=["pred"])])  # fmt: skip
    item = load({"image": str(phantoms / "images" / "phantom_001.nii.gz")})
    item["pred"] = item["pred"] * 0
    item["pred"][0, 20:24, 30:34, 4] = 1
    told = MeasureHemorrhaged("pred")(item)["measured"]
    assert told["side"] in ("left", "right", "both")
    from ichseg.io.geometry import NO_ORIENTATION

    item["image"].meta["flags"] = [NO_ORIENTATION]
    assert "side" not in MeasureHemorrhaged("pred")(item)["measured"]
