"""The comparison on phantoms: every method from scans to masks, kept, resumed, and honest about what failed."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from experiment_data import data  # noqa: F401

from ichseg.cli import main
from ichseg.comparison import FIGURES, MASKS, methods
from ichseg.defaults import METHODS
from ichseg.networks.lite_unet import imagenet_file

RUN = [name for name in METHODS if name != "ma2025_pretrained" or imagenet_file() is not None]
BUDGET = ["--size", "96", "--epochs", "1", "--device", "cpu"]


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
    assert main(["compare", "--datalist", datalist, "--output", str(output), *BUDGET[2:], "--size", "64"]) == 2
    assert "size" in capsys.readouterr().err


def test_controls_learn_nothing(compared):
    datalist, output = compared
    chosen = ["--methods", "hgi_sam", "--controls"]
    assert main(["compare", "--datalist", datalist, "--output", str(output), *BUDGET, *chosen]) == 0
    assert [row["control"] for row in table(output)] == ["", "untrained"]
    with (output / "untrained" / "hgi_sam" / "history.csv").open() as stream:
        assert [float(row["learning_rate"]) for row in csv.DictReader(stream)] == [0.0]


def test_a_method_that_cannot_run_says_why_and_stops_no_other(data, tmp_path, capsys):  # noqa: F811
    content = json.loads((data / "data" / "datalist.json").read_text())
    for scan in content["training"]:
        scan["image"] = str(data / "data" / scan["image"])
        scan.pop("label", None)
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    words = ["compare", "--datalist", str(tmp_path / "datalist.json"), "--output", str(tmp_path / "out"), *BUDGET]
    assert main([*words, "--methods", "unet,hu_rule"]) == 1
    first, second = table(tmp_path / "out")
    assert "unet learns from masks, but no training scan with hemorrhage has one" in first["note"]
    assert not second["note"] and second["slice AUC"] and not second["two-class mIoU"]
    assert main([*words, "--methods", "unet,nothing"]) == 2
    assert "method 'nothing' is unknown; choose from ma2025" in capsys.readouterr().err


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
