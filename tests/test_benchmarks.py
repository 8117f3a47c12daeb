"""Benchmarks are not timed here; what they do with their words is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_words_after_two_dashes_go_to_training():
    divided = load("train_folds")._divided
    assert divided(["D", "OUT", "--set", "a=1", "--", "--epochs", "2"]) == (
        ["D", "OUT", "--set", "a=1"],
        ["--epochs", "2"],
    )
    assert divided(["D"]) == (["D"], []) and divided(["--"]) == ([], [])


def test_ablation_rows_are_settings_there_are():
    from ichseg.bundle import config_values, parse_settings

    ablation = load("ablation")
    for settings in ablation.TRAINED.values():
        parse_settings("ich_segmentation", "train_recommended.yaml", settings)
    known = config_values("ich_segmentation", "inference.yaml")
    assert all(key in known for values in ablation.APPLIED.values() for key in values)
    assert ablation._rounded(None) is None and ablation._rounded(0.12345) == 0.123


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "encoder from scratch", "--set", "architecture=context"], "'context' always starts at random"),
        (["--rows", "the networks together"], "'the networks together' needs --members"),
        (["--rows", "no halos", "--weights", "model.pt"], "'no halos' needs a training"),
        (["--weights", "model.pt", "--set", "size=64"], "--set is for trainings"),
    ],
)
def test_rows_that_cannot_be_made_are_said(words, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ablation.py", "DATA/datalist.json", "OUT", *words])
    with pytest.raises(SystemExit, match="2"):
        load("ablation").main()
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py") if "argparse" in path.read_text()))
def test_benchmarks_explain_themselves(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        load(name).main()
    assert capsys.readouterr().out.startswith("usage:")
