"""How unlike the training scans a scan is, and how likely it shows hemorrhage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from test_cupping import PIXEL, head

from ichseg.anatomy.appearance import FEWEST_SCANS, NAMES, UNLIKE, Reference, appearance
from ichseg.folder.results import Results
from ichseg.transforms import CompareAppearanced, SliceScoredProbability, SliceScoredProbabilityd
from ichseg.transforms.unusual import NO_BRAIN


def looks(**kind) -> np.ndarray:
    return appearance(head(**kind), PIXEL)


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    made = [looks(amount=rng.uniform(3, 7), seed=seed) + rng.normal(0, 0.3, len(NAMES)) * [2, 1, 0.1, 2, 2, 1, 0.02]
            for seed in range(FEWEST_SCANS)]  # fmt: skip
    return Reference.of(made)


def test_scans_like_those_of_training_are_near(reference):
    for seed in (50, 51):
        assert reference.distance(looks(amount=5, seed=seed)) < 2.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda scan: scan + 25 * (scan < 100), "brain density"),
        (lambda scan: scan + np.random.default_rng(1).normal(0, 18, scan.shape) * (scan < 100), "noise"),
        (lambda scan: head(amount=35.0), "brain near the skull"),
    ],
)
def test_what_is_unlike_them_is_named(reference, change, named):
    measured = appearance(change(head(amount=5.0)).astype(np.float32), PIXEL)
    assert reference.distance(measured) > UNLIKE
    assert reference.told(measured).startswith(named) and "(training " in reference.told(measured)


def test_a_little_blood_is_not_unusual(reference):
    assert reference.distance(looks(amount=5.0, blood="sliver")) < UNLIKE


def as_item(scan):
    affine = torch.diag(torch.tensor([PIXEL, PIXEL, 5.0, 1.0], dtype=torch.float64))
    return {"image": MetaTensor(torch.from_numpy(np.moveaxis(scan, 0, -1).copy())[None], affine=affine)}


def test_the_transform_measures_and_flags(reference):
    compare = CompareAppearanced("image", vars(reference))
    near = compare(as_item(head(amount=5.0, seed=60)))
    assert near["unusual"] < 2.5 and "flags" not in near
    far = compare({**as_item(head(amount=35.0)), "flags": ["other"]})
    assert far["unusual"] > UNLIKE and far["flags"][0] == "other" and "unlike the training scans" in far["flags"][1]
    none = compare(as_item(np.full((4, 64, 64), -1000.0, np.float32)))
    assert none["flags"] == [NO_BRAIN] and "unusual" not in none
    assert "unusual" not in CompareAppearanced("image")(as_item(head()))
    assert len(str(compare.described())) < 300


def test_a_reference_needs_scans():
    with pytest.raises(ValueError, match="at least 20 scans, not 1"):
        Reference.of([looks()])
    alike = Reference.of([np.array([30.0, 4.0, 0.1, 6, 6, 5, 0.0])] * FEWEST_SCANS)
    assert np.isfinite(alike.distance(looks()))
    with pytest.raises(ValueError, match="not 0"):
        Reference.of([])


def test_one_suspicious_slice_makes_a_scan_suspicious():
    logits = torch.full((3, 16, 16, 6), -4.0)
    logits[0] = 0

    def probability(**options):
        made = SliceScoredProbabilityd("pred", share=0.05, **options)({"pred": logits.clone()})
        assert made["pred"].shape == (1, 16, 16, 6)
        return made.get("probability")

    assert probability() is None  # weights from before it was fitted
    quiet = probability(patient_slope=1.0)
    logits[1:, :, :, 3] = 4.0
    found, fused = probability(patient_slope=1.0, weight=0.0), probability(patient_slope=1.0, weight=0.5)
    assert quiet < 0.05 < fused < found and found == pytest.approx(0.982, abs=0.001)
    assert probability(patient_slope=2.0, patient_offset=-8.0, weight=0.0) == 0.5
    assert probability(patient_slope=1000.0, patient_offset=-9000.0, weight=0.0) == 0.0
    logits[:] = float("nan")
    assert probability(patient_slope=1.0) is None


@pytest.mark.parametrize(("axis", "step"), [(2, 5.0), (0, 5.0), (2, 2.5)])
def test_neighbors_that_confirm_are_5_mm_away_along_the_slices(axis, step):
    logits = torch.full((3, 12, 12, 7), -4.0)
    logits[0], logits[2] = 0, 4.0
    logits[1, 3:6, 3:6, 2:5] = 3.0
    logits[1, 9, 9, 3] = 3.0  # alone
    affine = np.diag([1.0, 1, step, 1])
    volume = logits if axis == 2 else logits.permute(0, 3, 1, 2)
    affine = affine if axis == 2 else affine[:, [2, 0, 1, 3]]
    made = SliceScoredProbability(weight=0.0, support=1.0)(MetaTensor(volume, affine=affine))[0]
    made = (made if axis == 2 else made.permute(1, 2, 0)).as_tensor()
    assert made[9, 9, 3] < 0.1  # the network's own is .95 times the slice's
    # A lesion of three slices confirms itself at 5 mm; where slices are 2.5 mm apart, its ends are 5 mm from no other.
    assert (made[4, 4, 2:5] > 0.9).tolist() == ([True] * 3 if step == 5 else [True, False, True])


def test_priority_is_the_order_of_probability_then_volume(tmp_path):
    rows = [{"case": str(n), "file": str(n), "status": "ok", "probability": p, "volume_ml": v, "lesions": 0}
            for n, (p, v) in enumerate([(0.2, 5.0), (0.9, 1.0), (0.9, 3.0)])]  # fmt: skip
    rows.append({"case": "3", "file": "3", "status": "failed", "message": "damaged"})
    results = Results(tmp_path)
    for row in rows:
        results.add(row)
    results.write()
    assert [row.get("priority") for row in results.prioritized()] == [3, 2, 1, None]
    lines = results.path.read_text().splitlines()
    assert lines[0].startswith("case,status,probability,priority,subtypes,unusual,volume_ml")
    assert lines[3].startswith("2,ok,0.9,1,,,3.0") and lines[4].startswith("3,failed,,,,,")
