"""Bootstrap intervals over patients, and tables from which every figure can be made again."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from ichseg.evaluation import bootstrap_intervals, evaluate_masks, evaluate_slices
from ichseg.evaluation.intervals import by_patient
from ichseg.io import write_volume


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 2.0, 60).tolist()
    low, high = bootstrap_intervals([[v] for v in values], lambda groups: {"mean": float(np.mean(groups))})["mean"]
    half = 1.96 * np.std(values) / np.sqrt(60)
    assert low == pytest.approx(np.mean(values) - half, abs=0.15 * half)
    assert high == pytest.approx(np.mean(values) + half, abs=0.15 * half)


def test_slices_of_one_patient_stay_together():
    parts, patients = [0.0] * 20 + [1.0] * 20, ["a"] * 20 + ["b"] * 20
    groups = by_patient(parts, patients)
    assert [len(group) for group in groups] == [20, 20]
    told = bootstrap_intervals(groups, lambda some: {"mean": float(np.mean(some)), "count": len(some)})
    assert told == {"mean": [0.0, 1.0]}  # a count gets none
    assert bootstrap_intervals(groups[:1], lambda some: {"mean": 1.0}) == {}
    rare = bootstrap_intervals(groups, lambda some: {"zero": 0.5} if [0.0] * 20 in some else {})
    assert rare == {"zero": [0.5, 0.5]}  # some draws lack it
    nothing = bootstrap_intervals(groups, lambda some: {"mean": float("nan")})
    assert nothing == {}


def test_a_patient_drawn_twice_is_two():
    groups = [[1.0], [2.0], [3.0]]
    sizes = set()
    bootstrap_intervals(groups, lambda some: sizes.add(len(some)) or {"sum": float(sum(map(sum, some)))})
    assert sizes == {3}


@pytest.fixture
def judged(tmp_path):
    """Six scans of five patients with masks, predictions and probabilities."""
    rng, affine, scans = np.random.default_rng(1), np.diag([-1.0, -1.0, 5.0, 1.0]), []
    for number in range(6):
        truth = np.zeros((24, 24, 5), np.uint8)
        if number != 5:
            truth[4:14, 4:14, 1:4] = 1
        found = truth.copy()
        found[: rng.integers(1, 12)] = 0
        found[20:22, 20:22, number % 5] = 1
        name = f"s{number}"
        write_volume(tmp_path / "images" / f"{name}.nii.gz", np.full(truth.shape, 30.0, np.float32), affine)
        write_volume(tmp_path / "labels" / f"{name}.nii.gz", truth, affine)
        write_volume(tmp_path / "masks" / f"{name}_ich.nii.gz", found, affine)
        write_volume(tmp_path / "masks" / f"{name}_probability.nii.gz", found * np.float32(0.8), affine)
        scans.append({"case": name, "patient": f"p{max(number - 1, 0)}", "image": f"images/{name}.nii.gz",
                      "label": f"labels/{name}.nii.gz", "fold": 0,
                      "slice_labels": truth.any(axis=(0, 1)).astype(int).tolist()})  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps({"name": "x", "training": scans}))
    return tmp_path


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_figure_can_be_made_from_the_tables(judged):
    row = evaluate_masks(judged / "masks", judged / "datalist.json", judged / "out")[0]
    lines = table(judged / "out" / "evaluation_slices.csv")
    assert len(lines) == 30 and {line["patient"] for line in lines} == {f"p{n}" for n in range(5)}
    total = {name: sum(int(line[name]) for line in lines) for name in lines[0] if name.endswith(("pixels", "lesions"))}
    union = total["true_pixels"] + total["predicted_pixels"] - total["overlap_pixels"]
    assert total["overlap_pixels"] / union == pytest.approx(row["foreground_iou"])
    assert total["found_lesions"] / total["true_lesions"] == pytest.approx(row["CL"])
    assert total["false_lesions"] / total["predicted_lesions"] == pytest.approx(row["FPL"])
    dices = [float(line["dice"]) for line in lines if int(line["true_pixels"])]
    assert np.mean(dices) == pytest.approx(row["dice_positive_slices"])
    for name in ("foreground_iou", "dice_positive_slices", "FPL", "miou"):
        low, high = row["intervals"][name]
        assert low <= row[name] <= high and low < high
    kept = json.loads((judged / "out" / "evaluation.json").read_text())
    assert kept["patients"] == 5 and kept["methods"][0]["intervals"]["CL"] == row["intervals"]["CL"]


def test_slice_labels_have_intervals_too(judged):
    told = evaluate_slices(judged / "masks", judged / "datalist.json", judged / "out")
    kept = json.loads((judged / "out" / "detection.json").read_text())
    assert kept["patients"] == 5 and "intervals" not in told
    low, high = kept["intervals"]["negative_slices_touched"]
    assert low <= told["negative_slices_touched"] <= high
    low, high = kept["intervals"]["patient_auc"]
    assert 0 <= low <= high <= 1  # a patient's volumes are not added up for being drawn twice
    lines = table(judged / "out" / "detection_slices.csv")
    touched = [int(line["area_pixels"]) > 0 for line in lines if line["label"] == "1"]
    assert len(lines) == 30 and np.mean(touched) == pytest.approx(told["positive_slices_touched"])
    assert max(float(line["probability"]) for line in lines) == pytest.approx(0.8, abs=1e-4)
