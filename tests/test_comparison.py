"""The comparison on phantoms: every method from scans to masks, kept, resumed, and honest about what failed."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import classifier_file
from experiment_data import data  # noqa: F401

from ichseg.cli import main
from ichseg.comparison import FIGURES, MASKS, Bench, Scans, methods
from ichseg.comparison.bench import BACKBONE, masked_patients
from ichseg.data import load_datalist
from ichseg.defaults import METHODS, PAPER_PAIR
from ichseg.experiments import Study
from ichseg.io import read_mask
from ichseg.networks.lite_unet import imagenet_file
from ichseg.presets import Plan

RUN = [name for name in METHODS if name != "ma2025_pretrained" or imagenet_file() is not None]
BUDGET = ["--size", "64", "--epochs", "1", "--device", "cpu"]


def table(output):
    with (output / "comparison.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):  # noqa: F811
    output = tmp_path_factory.mktemp("compared")
    datalist = str(data / "data" / "datalist.json")
    words = ["compare", "--datalist", datalist, "--output", str(output), *BUDGET, "--methods", ",".join(RUN)]
    assert main(words) == 0
    return datalist, output


def test_all_methods_are_there():
    assert tuple(methods()) == METHODS
    assert [name for name, method in methods().items() if method.learns_from == MASKS] == ["label_efficient", "unet"]


def test_every_method_gets_a_row_and_a_column(compared):
    output = compared[1]
    rows = table(output)
    assert [row["method"] for row in rows] == list(RUN) and not any(row["note"] for row in rows)
    for row in rows:
        for column in FIGURES:
            assert row[column] == "" or 0 <= float(row[column]) <= 1 or np.isnan(float(row[column]))
        assert row["slice AUC"] and row["two-class mIoU"]
    page = (output / "comparison.md").read_text()
    assert "comparison.png" in page and "curves.png" in page and "failed" not in page
    for name in ("comparison.png", "curves.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")


def test_networks_that_methods_share_are_trained_once(compared):
    trained = compared[1] / "trained"
    assert {folder.name for folder in (trained / "classifiers").iterdir()} >= {"resnet34", "resnet50"}
    settings = json.loads((trained / "psa" / "unet" / "made_of.json").read_text())["made_of"]
    others = json.loads((trained / "edam" / "unet" / "made_of.json").read_text())["made_of"]
    assert {key for key in settings if settings[key] != others[key]} <= {"pseudo_dir", "inputs"}


def test_again_nothing_is_made(compared, capsys):
    datalist, output = compared
    before = {file: file.stat().st_mtime_ns for file in (output / "trained").rglob("*.pt")}
    methods_ = ["--methods", "psa,hu_rule"]
    assert main(["compare", "--datalist", datalist, "--output", str(output), *BUDGET, *methods_]) == 0
    assert {file: file.stat().st_mtime_ns for file in (output / "trained").rglob("*.pt")} == before
    assert [row["method"] for row in table(output)] == ["psa", "hu_rule"]
    assert main(["compare", "--datalist", datalist, "--output", str(output), *BUDGET[2:], "--size", "96"]) == 2
    assert "size" in capsys.readouterr().err


def test_controls_learn_nothing(compared):
    datalist, output = compared
    chosen = ["--methods", "hgi_sam", "--controls"]
    assert main(["compare", "--datalist", datalist, "--output", str(output), *BUDGET, *chosen]) == 0
    assert [row["control"] for row in table(output)] == ["", "untrained"]
    with (output / "untrained" / "hgi_sam" / "history.csv").open() as stream:
        assert [float(row["learning_rate"]) for row in csv.DictReader(stream)] == [0.0]


def test_a_method_that_cannot_run_says_why_and_stops_no_other(data, tmp_path, capsys):  # noqa: F811
    content = copied_datalist(data)
    for scan in content["training"]:
        scan.pop("label", None)
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    words = ["compare", "--datalist", str(tmp_path / "datalist.json"), "--output", str(tmp_path / "out"), *BUDGET]
    assert main([*words, "--methods", "unet,hu_rule"]) == 1
    first, second = table(tmp_path / "out")
    assert "unet learns from masks, but fewer than two training patients" in first["note"]
    assert not second["note"] and second["slice AUC"] and not second["two-class mIoU"]
    assert main([*words, "--methods", "unet,nothing"]) == 2
    assert "method 'nothing' is unknown; choose from ma2025" in capsys.readouterr().err


def copied_datalist(data):  # noqa: F811
    content = json.loads((data / "data" / "datalist.json").read_text())
    for scan in content["training"]:
        scan |= {key: str(data / "data" / scan[key]) for key in ("image", "label") if key in scan}
    return content


def test_training_patients_validate_where_the_validation_folds_have_no_masks(data, tmp_path):  # noqa: F811
    content = copied_datalist(data)
    for scan in content["training"]:
        if scan["fold"] == 3:
            scan.pop("label", None)
    file = tmp_path / "datalist.json"
    file.write_text(json.dumps(content))
    bench = Bench(Plan(file, tmp_path), 96, 1).for_masks("unet")
    trained_on = masked_patients(bench.plan.datalist, bench.plan.train_folds)
    validated = masked_patients(bench.plan.datalist, bench.plan.val_folds)
    everyone = masked_patients(file, "0-2")
    assert validated == everyone[::4] and sorted(trained_on + validated) == everyone and trained_on
    before = bench.plan.datalist.stat().st_mtime_ns
    assert Bench(Plan(file, tmp_path), 96, 1).for_masks("unet") == bench  # and nothing is written again
    assert bench.plan.datalist.stat().st_mtime_ns == before
    given = data / "data" / "datalist.json"
    assert Bench(Plan(given, tmp_path), 96, 1).for_masks("unet").plan.datalist == given


def test_rivals_see_what_the_given_classifier_saw(data, tmp_path):  # noqa: F811
    plan = Plan(data / "data" / "datalist.json", tmp_path)
    seen = {}
    for strip in (False, True):
        file = classifier_file(tmp_path / f"{strip}.pt", BACKBONE, 64, window_width=100, strip_skull=strip)
        seen[strip] = Bench(plan, 64, 1, given={BACKBONE: file}).slices["train"][0]
    assert seen[True].shape == seen[False].shape and bool((seen[True] <= seen[False]).all())
    assert 0 < (seen[True] > 0).sum() < 0.9 * (seen[False] > 0).sum()


def test_masks_are_made_of_the_slices_that_the_gate_lets_pass(data, tmp_path):  # noqa: F811
    plan = Plan(data / "data" / "datalist.json", tmp_path)
    given = {name: classifier_file(tmp_path / f"{name}.pt", name, 64, window_width=100) for name in PAPER_PAIR}
    scans = Scans(plan.datalist, "4")
    labels = {s["case"]: s["slice_labels"] for s in load_datalist(scans.datalist, scans.folds)}
    for gating, passing in (
        ({"gate_by": "label"}, lambda label: label),
        ({"gate_by": "both", "gate": 0}, lambda label: label),
        ({"gate_by": "prediction", "gate": 0}, lambda label: 1),
        ({"gate_by": "prediction", "gate": 1.01}, lambda label: 0),
    ):
        bench = Bench(plan, 64, 1, given=given, gating=gating)
        folder = bench.masked(tmp_path / f"{gating}", lambda images: torch.ones(len(images), 64, 64), scans)
        for case, expected in labels.items():
            mask = read_mask(folder / f"{case}_pseudo.nii.gz")[0]
            assert mask.any(axis=(0, 1)).tolist() == [bool(passing(label)) for label in expected], gating


def test_a_study_gates_its_rivals_as_its_own_masks(data, tmp_path):  # noqa: F811
    datalist = data / "data" / "datalist.json"
    assert Study(datalist, tmp_path).gating == {"gate": 0.5, "gate_rule": "mean", "gate_by": "prediction"}
    assert Study(datalist, tmp_path, settings=["gate_by=label"]).gating["gate_by"] == "label"
    assert Bench(Plan(datalist, tmp_path), 64, 1).gating == {"gate_by": "label"}


def test_implants_are_measured_apart(compared, data):  # noqa: F811
    datalist, output = compared
    drawn = output / "drawn.json"  # phantoms stand for them
    drawn.write_text(json.dumps({"training": [s for s in copied_datalist(data)["training"] if s["fold"] == 4]}))
    words = ["compare", "--datalist", datalist, "--output", str(output), *BUDGET, "--methods", "hu_rule,psa"]
    assert main([*words, "--implants", str(drawn)]) == 0
    for row in table(output):
        measured = output / "trained" / row["method"] / "implants" / "results" / "evaluation.json"
        figures = json.loads(measured.read_text())["methods"][0]
        assert float(row["Dice of implants"]) == pytest.approx(figures["dice_positive_slices"], abs=1e-6)
    assert "Dice of implants" in (output / "comparison.md").read_text()
    assert main(words) == 0
    assert all(not row["Dice of implants"] for row in table(output))
    assert "Dice of implants" not in (output / "comparison.md").read_text()


@pytest.mark.parametrize("fault", [RuntimeError("out of memory"), SystemExit(1), ValueError("no pairs")])
def test_no_fault_of_one_method_stops_the_others(fault, data, tmp_path, monkeypatch, capsys):  # noqa: F811
    def fail(bench):
        raise fault

    table_ = {name: replace(method, make=fail) if name == "psa" else method for name, method in methods().items()}
    monkeypatch.setattr("ichseg.comparison.run.methods", lambda: table_)
    words = ["compare", "--datalist", str(data / "data" / "datalist.json"), "--output", str(tmp_path), *BUDGET]
    assert main([*words, "--methods", "psa,hu_rule,psa"]) == 1
    first, second = table(tmp_path)
    assert first["note"].startswith("failed: ") and second["two-class mIoU"]
    assert main([*words, "--methods", ","]) == 2
    assert "no method is named" in capsys.readouterr().err


def test_remade_inputs_are_noticed(compared, capsys):
    """Pseudo-masks that were made again of something else do not go with the U-Net that learned from the old ones."""
    datalist, output = compared
    record = output / "trained" / "rca" / "pseudo" / "made_of.json"
    before = record.read_text()
    try:
        record.write_text(before.replace('"name": "pseudo"', '"name": "pseudo", "more": 1'))
        again = ["compare", "--datalist", datalist, "--output", str(output), *BUDGET, "--methods", "rca"]
        assert main(again) == 1
        assert "made with" in table(output)[0]["note"]
    finally:
        record.write_text(before)
