"""Hounsfield units are told from what else a file may hold: by the head itself, whatever surrounds it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ichseg.anatomy import intracranial_mask
from ichseg.io.volume import checked_volume, read_volume
from ichseg.synthetic.phantom import phantom_scan

HEAD = phantom_scan(seed=2, size=128, slices=16)
IMAGE = HEAD.image.astype(np.float32)


def flags(array, affine=HEAD.affine):
    return checked_volume(array, affine, "scan").flags


def padded(array, value, share=0.5):
    x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in array.shape[:2]), indexing="ij")
    inside = x**2 + y**2 <= (array.shape[0] * share) ** 2
    return np.where(inside[..., None], array, value)


def stripped(background):
    brain = np.stack([intracranial_mask(one) for one in np.moveaxis(IMAGE, 2, 0)], -1)
    return np.where(brain, IMAGE, background).astype(np.float32)


HEALTHY = {
    "clipped at -300": IMAGE.clip(-300, None),
    "bone window": IMAGE.clip(-450, 1050),
    "as it is": IMAGE,
    "padded -1024": padded(IMAGE, -1024),
    "padded -2000": padded(IMAGE, -2000),
    "padded -3024": padded(IMAGE, -3024),
    "clipped metal": np.where(IMAGE.max() == IMAGE, 3071, IMAGE),
    "window -20 to 100": IMAGE.clip(-20, 100),
    "window -100 to 300": IMAGE.clip(-100, 300),
}
DOUBTFUL = {
    "stored": (IMAGE + 1024, "no rescale intercept.*near 1,0[3-7]0"),
    **{
        f"stored, padded {p}": (padded(IMAGE + 1024, p), "no rescale intercept")
        for p in (-1024, -2000, -3024, 0, -32768)
    },
    "stored, intercept 1000": (IMAGE + 1000, "no rescale intercept"),
    "stored, intercept 8192": (IMAGE + 8192, "no rescale intercept"),
    "stored, clipped": (IMAGE.clip(-100, 200) + 1024, "no rescale intercept"),
    "half of it stored": (np.concatenate([IMAGE[..., :8], IMAGE[..., 8:] + 1024], -1), "no rescale intercept"),
    "intercept twice": (IMAGE - 1024, "gray level of brain.*-9[0-9]{2}|-1,0"),
    **{f"times {s}": (IMAGE * s, "wrong rescale slope|gray level of brain") for s in (0.5, 0.7, 1.3, 2, 10)},
    "intercept off by 24": (IMAGE + 24, "air is near -976"),
    "inverted": (-IMAGE, "brighter than the head: inverted"),
    "inverted window": (80 - IMAGE.clip(-20, 100), "brighter than the head: inverted"),
    "unsigned": (np.where(IMAGE < 0, IMAGE + 65536, IMAGE), "brighter than the head"),
    "padding unsigned": (padded(IMAGE, 63536), "brighter than the head.*padding"),
    "0 to 65535": ((IMAGE - IMAGE.min()) / np.ptp(IMAGE) * 65535, "gray level of brain"),
    "standardized": ((IMAGE - IMAGE.mean()) / IMAGE.std(), "gray level of brain"),
    "0 to 1": ((IMAGE - IMAGE.min()) / np.ptp(IMAGE), "from 0 to 1"),
    "8 bit": (IMAGE.clip(0, 100), "an 8-bit image"),
    "narrow window": (IMAGE.clip(-20, 60), "no values above 60"),
    **{f"stripped, {b}": (stripped(b), "skull-stripped|no air") for b in (-1000, -1024, 0, np.nan)},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_hounsfield_units_are_not_doubted(name):
    assert not flags(HEALTHY[name])


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_none_is_flagged(name):
    array, said = DOUBTFUL[name]
    assert re.search(said, "; ".join(flags(array))), flags(array)


def test_a_window_is_a_note_and_no_flag():
    volume = checked_volume(IMAGE.clip(-20, 100), HEAD.affine, "scan")
    assert not volume.flags and volume.notes == ("no values below -20 HU: clipped to a window",)


def test_metal_that_wrapped_around_is_told_from_padding():
    wrapped = IMAGE.copy()
    wrapped[50:56, 60:65, 8:10] = 33500 - 65536
    assert "values down to -32,036 inside the head" in "; ".join(flags(wrapped))
    assert not flags(padded(IMAGE, -32036))


@pytest.mark.parametrize("name", ["ct_example", "ID_7473dee7c1"])
def test_real_scans_are_judged_like_phantoms(name):
    from conftest import REAL

    file = REAL / "external" / "no_bleeding" / f"{name}.nii.gz"
    if not file.is_file():
        pytest.skip("real scans are not here")
    volume = read_volume(file)
    assert not volume.flags
    array = volume.array
    for changed, said in (
        (array + 1024, "no rescale intercept"),
        (padded(array + 1024, -2000), "no rescale intercept"),
        (array * 1.3, "wrong rescale slope"),
        (-array, "inverted"),
        (array[array.shape[0] // 3 :], "cut off"),
        (np.concatenate([array, array]), "two heads"),
    ):
        found = checked_volume(changed, volume.affine, "scan").flags
        assert said in "; ".join(found), said


# --- extent -----------------------------------------------------------------------------------------------------------
def test_a_head_at_the_edge_is_told_from_one_that_is_cut_off():
    for cut in (IMAGE[30:], IMAGE[:-30], IMAGE[:, 40:], padded(IMAGE, -2000, share=0.3)):
        assert any("cut off" in flag for flag in flags(cut))
    corner = np.full((256, 256, 16), -1000, np.float32)
    corner[:128, :128] = IMAGE
    volume = checked_volume(corner, HEAD.affine, "scan")
    assert not volume.flags and volume.notes == ("field of view 430 x 430 mm",)


def test_slices_that_appear_twice():
    for array in (np.repeat(IMAGE, 2, 2), np.concatenate([IMAGE[..., 4:10], IMAGE[..., 4:10]], -1)):
        assert any("more than once" in flag or "two heads" in flag for flag in flags(array))


def test_two_heads_and_more_than_a_head():
    beside = flags(np.concatenate([IMAGE, IMAGE]))
    above = flags(np.concatenate([IMAGE, IMAGE], -1))
    assert all(any("two heads" in flag for flag in found) for found in (beside, above))
    trunk = np.full((128, 128, 30), -1000, np.float32)
    trunk[20:108, 30:98] = 50
    upside = HEAD.affine @ np.diag([1, 1, -1, 1])
    long = np.concatenate([trunk, IMAGE], -1)
    for array, affine in ((long, HEAD.affine), (long[..., ::-1], upside)):
        assert any("mm from foot to head" in flag for flag in flags(array, affine))


def test_a_head_of_the_wrong_size_is_doubted():
    for scale in ((1.8, 1.8, 1, 1), (0.4, 0.4, 0.4, 1)):
        assert any("not a head" in flag for flag in flags(IMAGE, np.diag(scale) @ HEAD.affine))


@pytest.mark.parametrize("kind", ["EDH", "IPH", "IVH", "SAH", "SDH", None])
@pytest.mark.parametrize(("size", "slices"), [(64, 8), (128, 24), (96, 40)])
def test_no_phantom_is_doubted(kind, size, slices):
    for seed in (1, 3):
        made = phantom_scan(seed=seed, subtypes=(kind,) if kind else (), size=size, slices=slices)
        assert not flags(made.image, made.affine)
