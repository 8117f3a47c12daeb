"""The command line, the functions and the configs agree on every default and every choice."""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect

import pytest

from ichseg import defaults
from ichseg.bundle import config_values
from ichseg.cli import COMMANDS, build_parser, main
from ichseg.data import prepare_bhsd, prepare_compact, prepare_nifti
from ichseg.data.folds import parse_folds
from ichseg.evaluation import evaluate_masks
from ichseg.experiments import Study
from ichseg.presets import Plan
from ichseg.synthetic.implants import prepare_implants
from ichseg.synthetic.phantom import prepare_phantom
from ichseg.transforms import LayerAggregation


def subparser(*words) -> argparse.ArgumentParser:
    parser = build_parser()
    for word in words:
        (group,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = group.choices[word]
    return parser


def of_parser(*words):
    return {
        action.dest: action.default for action in subparser(*words)._actions if action.dest not in ("help", "debug")
    }


def of_function(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize(
    ("words", "function", "names"),
    [
        (("prepare", "phantom"), prepare_phantom, {"scans", "seed", "size", "slices"}),
        (("prepare", "implants"), prepare_implants, {"folds", "per_scan", "seed", "family"}),
        (("prepare", "compact"), prepare_compact, {"size", "folds"}),
        (("prepare", "bhsd"), prepare_bhsd, {"group_by", "labels_at", "fold_tolerance"}),
        (("prepare", "nifti"), prepare_nifti, {"fold_tolerance", "masks"}),
        (("train",), Plan, {"train_folds", "val_folds", "test_folds", "members", "member", "cache", "workers"}),
        (("experiment",), Study, {"size", "epochs", "train_folds", "val_folds", "test_folds", "batch_size", "precision",
                                  "device", "architecture", "benchmark", "classifiers"}),
        (("evaluate",), evaluate_masks, {"folds", "cases", "images", "connectivity", "tolerance_mm"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_an_option_and_the_function_behind_it_have_one_default(words, function, names):
    parser, signature = of_parser(*words), of_function(function)
    assert {name: parser[name] for name in names} == {name: signature[name] for name in names}


def test_options_and_configs_have_one_default():
    classify = config_values("ich_slice_classification", "train.yaml")
    paper, recommended = (config_values("ich_segmentation", f) for f in ("train_paper.yaml", "train_recommended.yaml"))
    generate, inference = (config_values(*f) for f in (("ich_pseudo_segmentation", "inference.yaml"),
                                                       ("ich_segmentation", "inference.yaml")))  # fmt: skip
    for config in (classify, paper, recommended):
        assert tuple(config["train_folds"]) == parse_folds(defaults.TRAIN_FOLDS)
        assert tuple(config["val_folds"]) == parse_folds(defaults.VAL_FOLDS)
    for config in (classify, paper):
        assert (config["size"], config["epochs"]) == (defaults.PAPER_SIZE, defaults.PAPER_EPOCHS)
    for config in (classify, paper, recommended, generate, inference):
        assert config["precision"] == defaults.PRECISIONS[0] and config["device_name"] == "auto"
    assert classify["backbone"] == defaults.PAPER_PAIR[0]
    assert generate["threshold"] == of_function(LayerAggregation)["threshold"] == defaults.PAPER_THRESHOLD
    assert paper["architecture"] == defaults.MASK_ARCHITECTURES[0]
    # What is not given on the command line leaves the config's value alone.
    segment = of_parser("segment")
    assert all(segment[name] is None for name in ("threshold", "min_volume", "size", "batch_size", "shard"))
    assert (segment["save_probabilities"], segment["overwrite"]) == (
        inference["save_probabilities"],
        inference["overwrite"],
    )
    assert (not segment["no_report"]) == inference["report"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_one_module_with_help_and_an_example(name):
    module = importlib.import_module(f"ichseg.cli.{name.replace('-', '_')}")
    assert module.HELP.endswith(".") and f"ichseg {name}" in module.EXAMPLE
    text = subparser(name).format_help()
    assert "example:" in text
    for action in subparser(name)._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction) or action.dest == "output", action.dest


def test_help_imports_nothing_heavy():
    import subprocess
    import sys

    code = "import sys; from ichseg.cli import build_parser; build_parser(); print([m for m in ('torch', 'monai', 'numpy') if m in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["prepare", "--debug", "phantom", "out"], ["prepare", "phantom", "out", "--debug"]])
def test_debug_stands_before_or_after_the_data_set(words):
    assert build_parser().parse_args(words).debug
    assert not build_parser().parse_args(["prepare", "phantom", "out"]).debug


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segment", "in", "out", "--treshold", "0.5"],
         ["usage: ichseg segment [-h]", "error: unknown arguments: --treshold 0.5; did you mean --threshold?"]),
        (["prepare", "phantom", "out", "--seeds=2"], ["usage: ichseg prepare phantom", "; did you mean --seed?"]),
        (["demo", "--nothing-like-it"], ["usage: ichseg demo", "unknown argument: --nothing-like-it\n"]),
    ],
)  # fmt: skip
def test_unknown_options_are_told_with_the_commands_own_usage(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and all(text in told for text in said)


@pytest.mark.parametrize(("file", "said"), [("out/x", "out/x: "), (None, "")])
def test_a_full_disk_is_no_bug(monkeypatch, capsys, file, said):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device", file)

    monkeypatch.setattr("ichseg.cli.demo.run", full)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == f"ichseg: error: {said}No space left on device\n"
