"""Each bundle passes monai.bundle's own checks, and its configs agree with each other."""

from __future__ import annotations

import csv
import gc
import json
import math
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

from ichseg.cli import main
from ichseg.guard import guard_bundle_run
from ichseg.networks import SUSPICIOUS_SHARE, slice_classifier
from ichseg.presets.run import preprocessing
from ichseg.resources import bundle_folder
from ichseg.version import __version__

CONFIGS = [
    ("ich_slice_classification", "train.yaml", "train"),
    ("ich_pseudo_segmentation", "generate.yaml", "inference"),
    ("ich_segmentation", "train.yaml", "train"),
    ("ich_segmentation", "train_recommended.yaml", "train"),
    ("ich_segmentation", "inference.yaml", "inference"),
]
BUNDLES = sorted({bundle for bundle, _, _ in CONFIGS})


def config(bundle, name):
    return yaml.safe_load((bundle_folder(bundle) / "configs" / name).read_text())


@pytest.mark.parametrize(("bundle", "name", "kind"), CONFIGS)
def test_properties_monai_expects(bundle, name, kind, phantoms, tmp_path):
    folder = bundle_folder(bundle)
    weights = tmp_path / "model.pt"
    network = ConfigParser(config("ich_segmentation", "inference.yaml")).get_parsed_content("network_def")
    torch.save(network.state_dict(), weights)
    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "resnet34.pt")
    overrides = {"dataset_dir": str(phantoms), "bundle_root": str(folder), "output_dir": str(tmp_path), "size": 64}
    overrides |= {
        ("ich_segmentation", "inference.yaml"): {"weights": str(weights)},
        ("ich_segmentation", "train.yaml"): {"supervision": "masks"},
        ("ich_segmentation", "train_recommended.yaml"): {"implants_per_scan": 2, "num_workers": 0, "val_folds": [4]},
        ("ich_pseudo_segmentation", "generate.yaml"): {"classifiers": {"resnet34": str(tmp_path / "resnet34.pt")}},
    }.get((bundle, name), {})
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / name),
        meta_file=str(folder / "configs" / "metadata.json"),
        logging_file=str(folder / "configs" / "logging.conf"),
        workflow_type=kind,
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata(bundle):
    folder = bundle_folder(bundle)
    meta = json.loads((folder / "configs" / "metadata.json").read_text())
    for key in ("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
                "description", "authors", "copyright", "network_data_format", "schema", "changelog"):  # fmt: skip
        assert meta[key], key
    assert meta["version"] == __version__ and __version__ in meta["changelog"]
    for tensor in [*meta["network_data_format"]["inputs"].values(), *meta["network_data_format"]["outputs"].values()]:
        assert {
            "type",
            "format",
            "num_channels",
            "spatial_shape",
            "dtype",
            "value_range",
            "is_patch_data",
            "channel_def",
        } <= set(tensor)
    for file in ("LICENSE", "docs/README.md", "configs/logging.conf"):
        assert (folder / file).is_file(), file
    card = (folder / "docs" / "README.md").read_text()
    assert all(f"## {part}" in card for part in ("Overview", "Data", "Input and output", "Commands", "License"))


@pytest.mark.parametrize(
    ("bundle", "name"), [("ich_slice_classification", "train.yaml"), ("ich_segmentation", "inference.yaml")]
)
def test_network_takes_and_gives_what_the_metadata_says(bundle, name):
    folder = bundle_folder(bundle)
    if bundle == "ich_slice_classification":
        parser = ConfigParser(config(bundle, name))
        assert parser.get_parsed_content("network_def").eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
        return
    verify_net_in_out(
        net_id="network_def",
        config_file=str(folder / "configs" / name),
        meta_file=str(folder / "configs" / "metadata.json"),
        device="cpu",
        n=4,
        bundle_root=str(folder),
    )


def test_what_stands_in_several_configs_is_the_same():
    def names(steps, architecture):
        """The steps that a config's conditions leave for an architecture."""
        kept = [s for s in steps if s.get("_disabled_") in (None, f"$@architecture {architecture}")]
        return [{k: v for k, v in step.items() if k != "_disabled_"} for step in kept]

    train, inference = config("ich_segmentation", "train.yaml"), config("ich_segmentation", "inference.yaml")
    assert train["network_def"].items() <= inference["network_def"].items()
    steps = inference["preprocessing"]["transforms"]
    paper = names(steps, "== 'context'")
    classify = config("ich_slice_classification", "train.yaml")["preprocessing"]["transforms"]
    pseudo = config("ich_pseudo_segmentation", "generate.yaml")["preprocessing"]["transforms"]
    strict = [{k: v for k, v in s.items() if k != "reader"} for s in paper]
    assert [{k: v for k, v in s.items() if k != "reader"} for s in classify] == strict
    assert pseudo[:-1] == paper and "KeepIntracraniald" in pseudo[-1]["_target_"]
    recommended = config("ich_segmentation", "train_recommended.yaml")
    ours = [s["_target_"] for s in names(steps, "!= 'context'")]
    assert [s["_target_"] for s in recommended["preprocessing"]["transforms"]] == [
        t for t in ours if not t.endswith(("BrainWindowd", "NeighborSlicesd"))
    ]
    assert [type(step).__name__ for step in preprocessing(64).transforms] == [
        s["_target_"].split(".")[-1] for s in recommended["preprocessing"]["transforms"]
    ]
    for key in ("size", "window_level", "window_width", "channels"):
        assert recommended[key] == inference[key], key
    beside = json.loads((bundle_folder("ich_segmentation") / "models" / "model.json").read_text())
    assert {key: inference[key] for key in beside} == beside
    assert {"members", "score_slope", "score_offset", "threshold", "min_volume_ml", "fill_holes_mm2"} <= set(beside)
    assert recommended["suspicious_share"] == SUSPICIOUS_SHARE


@pytest.mark.parametrize(("bundle", "name", "kind"), CONFIGS)
def test_no_expression_imports_or_evaluates(bundle, name, kind):
    text = (bundle_folder(bundle) / "configs" / name).read_text()
    assert not any(word in text for word in ("__import__", "eval(", "exec(", "open("))


def test_shipped_weights_fit_and_are_small():
    file = bundle_folder("ich_segmentation") / "models" / "model.pt"
    assert file.stat().st_size < 25e6
    network = ConfigParser(config("ich_segmentation", "inference.yaml")).get_parsed_content("network_def")
    network.load_state_dict(torch.load(file, weights_only=True))


def test_pseudo_and_segmentation_evaluation_configs_run(phantoms, tmp_path, capsys):
    from monai.bundle import run

    weights = tmp_path / "model.pt"
    network = ConfigParser(config("ich_segmentation", "inference.yaml")).get_parsed_content("network_def")
    torch.save(network.state_dict(), weights)
    folder = bundle_folder("ich_segmentation") / "configs"
    run(
        config_file=[str(folder / "inference.yaml"), str(folder / "evaluate.yaml")],
        meta_file=str(folder / "metadata.json"),
        logging_file=str(folder / "logging.conf"),
        bundle_root=str(folder.parent),
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path / "masks"),
        weights=str(weights),
        size=64,
        folds=[1, 2],
    )
    assert "foreground iou" in capsys.readouterr().out
    assert (tmp_path / "masks" / "phantom_001_ich.nii.gz").is_file()
    folder = bundle_folder("ich_pseudo_segmentation") / "configs"
    run(
        config_file=str(folder / "evaluate.yaml"),
        meta_file=str(folder / "metadata.json"),
        logging_file=str(folder / "logging.conf"),
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path / "masks"),
        folds=[2],
    )
    assert "HU rule, no learning" in capsys.readouterr().out


def test_classification_evaluation_config_runs(phantoms, tmp_path, capsys):
    from monai.bundle import run

    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "model.pt")
    folder = bundle_folder("ich_slice_classification") / "configs"
    run(
        config_file=[str(folder / "train.yaml"), str(folder / "evaluate.yaml")],
        meta_file=str(folder / "metadata.json"),
        logging_file=str(folder / "logging.conf"),
        bundle_root=str(folder.parent),
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path),
        size=64,
        val_folds=[1, 4],
        device_name="cpu",
    )
    assert "val_auc: 0." in capsys.readouterr().out and (tmp_path / "metrics.csv").is_file()


OWN = """
network_def:
  _target_: ichseg.networks.ClassifierEnsemble
  networks:
    - {_target_: DenseNet121, spatial_dims: 2, in_channels: 1, out_channels: 2, init_features: 8, block_config: [2, 2]}
    - _target_: ichseg.networks.slice_classifier
      backbone: vgg16
  layers:
    - [features.denseblock1, features.denseblock2]
    - [features.9, features.16]
"""
OWN_TRAINING = """
network_def: {_target_: DenseNet121, spatial_dims: 2, in_channels: 1, out_channels: 2, init_features: 8,
              block_config: [2, 2]}
supervised_layers: []
"""


def overlaid(bundle, file, overlay, tmp_path, **overrides):
    from monai.bundle import run

    (tmp_path / "own.yaml").write_text(overlay)
    folder = bundle_folder(bundle) / "configs"
    run(
        config_file=[str(folder / file), str(tmp_path / "own.yaml")],
        meta_file=str(folder / "metadata.json"),
        logging_file=str(folder / "logging.conf"),
        bundle_root=str(folder.parent),
        output_dir=str(tmp_path / "out"),
        device_name="cpu",
        size=64,
        **overrides,
    )
    return tmp_path / "out"


def test_networks_of_ones_own(phantoms, tmp_path):
    values = {"dataset_dir": str(phantoms), "gate_by": "label", "crf_iterations": 1, "folds": [0, 1]}
    out = overlaid("ich_pseudo_segmentation", "generate.yaml", OWN, tmp_path, **values)
    assert len(list(out.glob("*_pseudo.nii.gz"))) == 2
    values = {"dataset_dir": str(phantoms), "epochs": 1, "batch_size": 8, "val_folds": [4]}
    out = overlaid("ich_slice_classification", "train.yaml", OWN_TRAINING, tmp_path, **values)
    assert any("denseblock2" in key for key in torch.load(out / "model.pt", weights_only=True))


CHOICES = [  # every option beside its default, a few at a time
    {"method": "layer_cam", "target": "predicted", "gate_rule": "either", "layers": "mean"},
    {"component_mode": "channel", "component_sign": "border", "combine": "additive", "upsample": "first"},
    {"combine": "literal", "fusion_normalization": "printed", "layers": 1, "rule": "and", "gate_rule": "both"},
    {"crf_unary": "score", "crf_bilateral_sigma": 50, "crf_intensity_sigma": 5, "gate_by": "both", "gate": 0.1},
    {"method": "score_cam", "cam_layers": ["layer4"], "amplify_scale": 0, "fusion_weight": 0},
    {"method": "smooth_grad_cam++", "cam_layers": ["layer3", "layer4"], "intracranial": True},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(str(v) for v in choice.values()))
def test_every_choice_runs_and_the_masks_are_masks(choice, phantoms, tmp_path):
    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "resnet34.pt")
    values = {"dataset_dir": str(phantoms), "crf_iterations": 2, "folds": [1], "gate_by": "label", **choice}
    values["classifiers"] = {"resnet34": str(tmp_path / "resnet34.pt")}
    out = overlaid("ich_pseudo_segmentation", "generate.yaml", "batch_size: 4", tmp_path, **values)
    (mask,) = out.glob("*_pseudo.nii.gz")
    assert set(np.unique(nib.load(mask).dataobj)) <= {0, 1}


def test_scoring_first_or_along_and_in_bf16(phantoms, tmp_path):
    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "resnet34.pt")
    values = {"dataset_dir": str(phantoms), "crf_iterations": 1, "gate": 0.0, "folds": [1, 2]}
    values["classifiers"] = {"resnet34": str(tmp_path / "resnet34.pt")}
    masks = []
    for number, choice in enumerate(({"score_first": True, "batch_size": 3}, {}, {"precision": "bf16"})):
        here = tmp_path / str(number)
        here.mkdir()
        out = overlaid("ich_pseudo_segmentation", "generate.yaml", "threshold: 0.3", here, **values, **choice)
        masks.append([np.asarray(nib.load(f).dataobj) for f in sorted(out.glob("*_pseudo.nii.gz"))])
    assert len(masks[0]) == 2 and all(mask.any() for mask in masks[0])
    # Batches of another size may round a probability elsewhere.
    assert all((a != b).mean() < 1e-3 for a, b in zip(masks[0], masks[1], strict=True))
    found = json.loads((tmp_path / "2" / "out" / "precision.json").read_text())
    overlap = sum(int((a & b).sum()) for a, b in zip(masks[1], masks[2], strict=True))
    total = sum(int(a.sum() + b.sum()) for a, b in zip(masks[1], masks[2], strict=True))
    # Measured on the slices as the networks saw them, which at this size are the scan's own.
    assert found["dice_to_fp32"] == pytest.approx(2 * overlap / total, abs=1e-4) and found["scans"] == 2
    assert not (tmp_path / "1" / "out" / "precision.json").exists()


def test_nothing_is_kept_from_scan_to_scan(phantoms, tmp_path):
    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "resnet34.pt")
    parser = ConfigParser(config("ich_pseudo_segmentation", "generate.yaml"))
    parser.update(
        {
            "bundle_root": str(bundle_folder("ich_pseudo_segmentation")),
            "dataset_dir": str(phantoms),
            "output_dir": str(tmp_path),
            "classifiers": {"resnet34": str(tmp_path / "resnet34.pt")},
            "size": 64,
            "gate": 0.0,
            "device_name": "cpu",
        }
    )
    runner = parser.get_parsed_content("evaluator")
    held = []
    read = runner._read

    def counted(index):
        gc.collect()
        tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
        held.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return read(index)

    runner._read = counted
    assert [row["status"] for row in runner.run()] == ["ok"] * 5
    assert held[4] <= held[1]


def test_foreign_weights_and_plateaus_in_training(phantoms, tmp_path):
    state = slice_classifier("resnet34", num_classes=5, in_channels=3).state_dict()
    torch.save(state, tmp_path / "imagenet.pt")
    values = {"dataset_dir": str(phantoms), "epochs": 3, "batch_size": 8, "val_folds": [4]}
    values |= {"init_weights": str(tmp_path / "imagenet.pt"), "plateau_patience": 1, "learning_rate": 1e-9}
    out = overlaid("ich_slice_classification", "train.yaml", "val_interval: 1", tmp_path, **values)
    # At this rate nothing moves: the weights are the file's, RGB filters summed.
    trained = torch.load(out / "model.pt", weights_only=True)
    torch.testing.assert_close(trained["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(trained["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"], atol=1e-5, rtol=0)
    assert trained["fc.weight"].shape == (2, 512)
    assert "scheduler" in torch.load(out / "checkpoint.pt", weights_only=True)


def test_the_papers_unet(phantoms, tmp_path):
    values = {"dataset_dir": str(phantoms), "epochs": 1, "batch_size": 2, "train_folds": [0], "val_folds": [4]}
    values |= {"architecture": "paper", "supervision": "masks"}
    out = overlaid("ich_segmentation", "train.yaml", "dice_weight: 0.5", tmp_path, **values)
    assert json.loads((out / "model.json").read_text())["architecture"] == "paper"
    (tmp_path / "scans").symlink_to(phantoms / "images")
    found = tmp_path / "masks"
    assert (
        main(
            ["segment", str(tmp_path / "scans" / "phantom_000.nii.gz"), str(found), "--weights", str(out / "model.pt")]
        )
        == 0
    )
    assert (found / "phantom_000_ich.nii.gz").is_file()


def test_slice_labels_train_the_segmenter_too(phantoms, tmp_path):
    values = {"dataset_dir": str(phantoms), "epochs": 1, "batch_size": 4, "val_folds": [4]}
    values |= {"supervision": "implants", "implant_probability": 0.5, "lookalike_probability": 0.5}
    out = overlaid("ich_segmentation", "train.yaml", "slice_label_weight: 0.3", tmp_path, **values)
    assert (out / "model.pt").is_file()
    line = next(csv.DictReader((out / "history.csv").open()))
    assert math.isfinite(float(line["val_loss"]))


@pytest.mark.parametrize("bundle", ["ich_slice_classification", "ich_segmentation"])
def test_training_in_two_processes(bundle, phantoms, tmp_path):
    """The multi-GPU overlay, on the CPU with gloo where there is no GPU."""
    folder = bundle_folder(bundle)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    words += ["--config_file", "['configs/train.yaml','configs/multi_gpu_train.yaml']", "--dataset_dir", str(phantoms)]
    words += ["--output_dir", str(tmp_path), "--size", "64", "--epochs", "1", "--batch_size", "4", "--val_folds", "[4]"]
    words += ["--supervision", "masks"] if bundle == "ich_segmentation" else ["--implant_probability", "0.5"]
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "model.pt").is_file() and len((tmp_path / "history.csv").read_text().splitlines()) == 2


def test_mistyped_overrides_are_refused(tmp_path, capsys):
    overlay = tmp_path / "own.yaml"
    overlay.write_text("my_key: 1\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").write_text("no scan")
    one = ("ich_segmentation", "inference.yaml")
    guard_bundle_run(*one, ["run", "--threshold", "0.3", "--network_def::architecture=paper", "--run_id", "x"])
    guard_bundle_run(*one, ["run", f"--config_file=['a.yaml','{overlay}']", "--my_key", "2"])
    for words, said in (
        (["--thresold", "0.3"], "--thresold: not a key of .*inference.yaml; did you mean --threshold"),
        (["--my_key=2"], "--my_key: not a key"),
        (["--report", "maybe"], "--report: expected true or false, not 'maybe'"),
        (["--threshold", "high"], "--threshold: expected a number, not 'high'"),
        (["--output_dir", "a#b"], "--output_dir: MONAI reads the '#' of 'a#b' as '::'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            guard_bundle_run(*one, ["run", *words])
        assert re.search(said, capsys.readouterr().err)
    file = bundle_folder("ich_segmentation") / "configs" / "inference.yaml"
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(file),
        "--bundle_root",
        str(file.parents[1]),
    ]
    for words, said in (
        (["--dataset_dirr", str(tmp_path)], "did you mean --dataset_dir?"),
        (
            ["--dataset_dir", str(tmp_path / "none"), "--output_dir", str(tmp_path / "out")],
            "no such file or folder",
        ),
        (["--dataset_dir", str(overlay), "--output_dir", str(tmp_path / "out")], "own.yaml: not named .nii or .nii.gz"),
        (
            ["--threshold", "7", "--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")],
            "between 0 and 1, not 7",
        ),
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
