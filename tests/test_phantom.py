"""The phantom is a plausible head with exact truth."""

from __future__ import annotations

import numpy as np
import pytest

from ichseg.anatomy.brain import intracranial_mask
from ichseg.data import SUBTYPES, load_datalist
from ichseg.synthetic.phantom import phantom_scan

CODES = {name: code for code, name in SUBTYPES.items()}


@pytest.mark.parametrize("subtype", ["EDH", "IPH", "IVH", "SAH", "SDH"])
def test_each_subtype_looks_like_blood(subtype):
    scan = phantom_scan(11, (subtype,), size=128, slices=12)
    mask = scan.label == CODES[subtype]
    assert set(np.unique(scan.label)) == {0, CODES[subtype]} and mask.sum() >= 20
    assert 48 < np.median(scan.image[mask]) < 78
    # Nothing of the lesion is air or bone.
    assert np.percentile(scan.image[mask], 1) > 0 and np.percentile(scan.image[mask], 99) < 145


def test_healthy_head_has_the_tissues_of_a_head():
    scan = phantom_scan(5, (), size=128, slices=12, noise_hu=0)
    assert not scan.label.any()
    values = scan.image[..., 6]
    assert values[0, 0] == -1000
    shares = {name: ((values > low) & (values < high)).mean() for name, low, high in (
        ("air", -1100, -900), ("fluid", 0, 15), ("brain", 22, 45), ("bone", 300, 1500))}  # fmt: skip
    assert 0.25 < shares["air"] < 0.7 and shares["fluid"] > 0.005 and shares["brain"] > 0.2 and shares["bone"] > 0.04


def test_epidural_is_a_lens_and_subdural_a_crescent():
    flat = {}
    for subtype in ("EDH", "SDH"):
        spans = []
        for seed in range(4):
            mask = phantom_scan(seed, (subtype,), size=128, slices=10).label > 0
            section = mask[..., int(mask.sum((0, 1)).argmax())]
            points = np.argwhere(section)
            _, s, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
            spans.append(s[0] / s[1])
        flat[subtype] = np.mean(spans)
    assert flat["SDH"] > flat["EDH"]


def test_blood_in_the_ventricles_is_where_fluid_was():
    with_blood = phantom_scan(7, ("IVH",), size=128, slices=12, noise_hu=0)
    without = phantom_scan(7, (), size=128, slices=12, noise_hu=0)
    mask = with_blood.label > 0
    # The same seed draws the same head; its shifts are drawn after the lesions, so only densities are compared.
    assert (without.image < 15).sum() > mask.sum()


def test_the_seed_decides_everything():
    a, b = phantom_scan(3, ("SDH",), 64, 6), phantom_scan(3, ("SDH",), 64, 6)
    assert np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)
    assert not np.array_equal(a.image, phantom_scan(4, ("SDH",), 64, 6).image)
    with pytest.raises(ValueError, match="subtype 'ICH' is unknown"):
        phantom_scan(0, ("ICH",), 32, 2)


def test_cohort_is_a_data_folder(phantoms):
    scans = load_datalist(phantoms / "datalist.json", require=("slice_labels", "label"))
    assert [s["fold"] for s in scans] == [0, 1, 2, 3, 4]
    from ichseg.io import read_mask

    for scan in scans:
        mask, _ = read_mask(scan["label"])
        assert [int(v) for v in mask.any((0, 1))] == scan["slice_labels"]


@pytest.fixture(scope="module")
def healthy():
    return phantom_scan(21, (), size=160, slices=8).image[..., 4].astype(np.float32)


def test_brain_mask_is_the_inside_of_the_skull(healthy):
    mask = intracranial_mask(healthy)
    assert 0.15 < mask.mean() < 0.6 and (healthy[mask] < 200).mean() > 0.98
    assert not intracranial_mask(np.full((64, 64), -1000.0)).any()
    disc = np.hypot(*(np.indices((64, 64)) - 32)) < 20
    assert not intracranial_mask(np.where(disc, 35.0, -1000.0)).any()  # soft tissue without bone around: a neck
