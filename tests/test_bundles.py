"""Each bundle passes monai.bundle's own checks, and its configs agree with each other."""

from __future__ import annotations

import csv
import gc
import json
import math
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import classifier_file, segmenter_file, sequence_file, swin_file
from forked import run_module
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out

from ichseg.bundle import BundleParts, bundle_folder, config_values, guard_bundle_run, parse_settings, run_bundle
from ichseg.cli import main
from ichseg.errors import IchsegError, chain
from ichseg.networks import (
    ClassifierSettings,
    SegmenterSettings,
    load_pretrained,
    read_settings,
    save_weights,
    slice_classifier,
)
from ichseg.networks.segmenters import USUAL_CHANNELS
from ichseg.transforms import HemorrhageMaskd, head_ct_loader
from ichseg.version import __version__

CONFIGS = [
    ("chest_xray", "train.yaml", "train"),
    ("chest_xray", "generate.yaml", "inference"),
    ("hgi_sam", "train.yaml", "train"),
    ("hgi_sam", "generate.yaml", "inference"),
    ("label_efficient", "pretrain.yaml", "train"),
    ("label_efficient", "train.yaml", "train"),
    ("resnet_lstm", "train.yaml", "train"),
    ("resnet_lstm", "generate.yaml", "inference"),
    ("ich_slice_classification", "train.yaml", "train"),
    ("ich_slice_classification", "inference.yaml", "inference"),
    ("ich_pseudo_segmentation", "inference.yaml", "inference"),
    ("ich_segmentation", "train.yaml", "train"),
    ("ich_segmentation", "train_paper.yaml", "train"),
    ("ich_segmentation", "train_recommended.yaml", "train"),
    ("ich_segmentation", "inference.yaml", "inference"),
    ("ich_segmentation", "inference_paper.yaml", "inference"),
]
BUNDLES = sorted({bundle for bundle, _, _ in CONFIGS})


@pytest.mark.parametrize(("bundle", "name", "kind"), CONFIGS)
def test_properties_monai_expects(bundle, name, kind, phantoms, tmp_path):
    folder = bundle_folder(bundle)
    overrides = {"dataset_dir": str(phantoms), "bundle_root": str(folder), "output_dir": str(tmp_path), "size": 64}
    classifiers = {"resnet34": str(classifier_file(tmp_path / "resnet34.pt"))}
    overrides |= {
        "inference.yaml": {"weights": str(segmenter_file(tmp_path / "context.pt"))},
        "inference_paper.yaml": {"weights": str(segmenter_file(tmp_path / "small.pt", "small"))},
        "pretrain.yaml": {},
        "train.yaml": {},
        "train_paper.yaml": {"supervision": "masks"},
        "train_recommended.yaml": {"implants_per_scan": 2, "num_workers": 0, "val_folds": [4]},
        "generate.yaml": {},
    }[name]
    if bundle in ("ich_pseudo_segmentation", "ich_slice_classification") and name == "inference.yaml":
        del overrides["weights"]
        overrides["classifiers"] = classifiers
    if (
        file := {"hgi_sam": swin_file, "resnet_lstm": sequence_file, "chest_xray": classifier_file}.get(bundle)
    ) and name == "generate.yaml":
        overrides = {**overrides, "weights": str(file(tmp_path / "model.pt"))}
        del overrides["size"]  # the weight file says it
    if (bundle, name) == ("chest_xray", "generate.yaml"):
        overrides |= {"seeds": "map", "boundaries": None}
    if (bundle, name) == ("hgi_sam", "train.yaml"):
        overrides["variant"] = "swin_nano"
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
    ("bundle", "name"),
    [
        ("ich_slice_classification", "train.yaml"),
        ("ich_segmentation", "inference.yaml"),
        *((method, "train.yaml") for method in ("resnet_lstm", "hgi_sam", "chest_xray", "label_efficient")),
    ],
)
def test_network_takes_and_gives_what_the_metadata_says(bundle, name):
    folder = bundle_folder(bundle)
    if bundle == "ich_slice_classification":
        network = BundleParts(bundle, name)["network_def"].eval()
        assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
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
    def steps(bundle, name, part="preprocessing"):
        found = [step["_target_"].split(".")[-1] for step in config_values(bundle, name)[part]["transforms"]]
        return ["head_ct_loader", *found[3:]] if found[:3] == loading else found

    loading = [type(step).__name__ for step in head_ct_loader().transforms]
    assert loading == ["LoadImaged", "EnsureChannelFirstd", "SlicesLastd"]
    paper = ["head_ct_loader", "BrainWindowd", "SliceResized"]
    assert steps("ich_segmentation", "inference_paper.yaml") == steps("ich_segmentation", "train_paper.yaml") == paper
    assert steps("ich_slice_classification", "train.yaml") == paper
    assert steps("ich_pseudo_segmentation", "inference.yaml") == [*paper, "KeepIntracraniald"]
    ours = steps("ich_segmentation", "inference.yaml")
    evened = ["head_ct_loader", "RestoreBoned", "HeadCropd", "AverageSlabsd", "RemoveCuppingd"]
    assert ours == [*evened[:3], "CopyItemsd", "CompareAppearanced", *evened[3:], "BrainWindowd", "NeighborSlicesd"]
    # Training packs Hounsfield units; window and neighbors come with the batch.
    assert steps("ich_segmentation", "train_recommended.yaml") == evened
    tail = [
        steps("ich_segmentation", name, "postprocessing")[2:] for name in ("inference.yaml", "inference_paper.yaml")
    ]
    assert tail[0] == tail[1]
    # What the shipped model was trained with is what the training config says.
    shipped = read_settings(bundle_folder("ich_segmentation") / "models" / "model.pt", SegmenterSettings)
    recommended = config_values("ich_segmentation", "train_recommended.yaml")
    for key in ("size", "window_level", "window_width", "suspicious_share"):
        assert recommended[key] == getattr(shipped, key), key
    assert recommended["channels"] is None and shipped.channels == list(USUAL_CHANNELS[shipped.architecture])


@pytest.mark.parametrize(("bundle", "name", "kind"), CONFIGS)
def test_no_expression_imports_or_evaluates(bundle, name, kind):
    text = (bundle_folder(bundle) / "configs" / name).read_text()
    assert not any(word in text for word in ("__import__", "eval(", "exec(", "open("))


def test_shipped_weights_fit_and_are_small():
    file = bundle_folder("ich_segmentation") / "models" / "model.pt"
    assert file.stat().st_size < 25e6
    network = BundleParts("ich_segmentation", "inference.yaml")["network_def"]
    network.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.slow
def test_ckpt_export_as_documented_by_monai(tmp_path):
    root = bundle_folder("ich_segmentation")
    words = ["monai.bundle", "ckpt_export", "network_def", "--filepath", str(tmp_path / "model.ts")]
    words += ["--ckpt_file", str(root / "models" / "model.pt")]
    words += ["--meta_file", str(root / "configs" / "metadata.json")]
    words += ["--config_file", str(root / "configs" / "inference.yaml")]
    done = run_module(words, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    image = torch.rand(1, 3, 64, 64)
    plain = BundleParts("ich_segmentation", "inference.yaml", {"device_name": "cpu"})["network"].eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(image), plain(image))


UNUSUAL = {"threshold": 0.4, "window_level": 45, "window_width": 90, "members": 2, "channels": [4, 8, 16],
           "flip": False, "score_slope": 0.3, "score_offset": 1.5, "fusion_weight": 0.9, "suspicious_share": 0.05,
           "support_weight": 0.6, "min_volume_ml": 0.01, "fill_holes_mm2": 7.0, "size": 96, "restore_bone": True,
           "remove_cupping": True, "patient_slope": 0.7, "patient_offset": -0.2}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "config"), [("context", "inference.yaml"), ("small", "inference_paper.yaml")])
def test_three_faces_read_the_settings_in_the_weight_file(architecture, config, phantoms, tmp_path, caplog):
    """The command line, the Python call and the bundle make the same masks of weights with unusual settings."""
    import ichseg
    from ichseg.networks import segmenter

    values = UNUSUAL if architecture == "context" else {"threshold": 0.45, "window_width": 90, "min_volume_ml": 0.01}
    state = segmenter(architecture, UNUSUAL["channels"], UNUSUAL["members"]).state_dict()
    for name, value in state.items():
        if name.endswith("outline.3.weight"):  # so that random weights mark some pixels, and not all
            value.mul_(20)
        elif name.endswith("outline.3.bias"):
            value.zero_()
    weights = segmenter_file(tmp_path / "odd.pt", architecture, state=state, **values)
    scans = phantoms / "images"
    assert main(["segment", str(scans), str(tmp_path / "cli"), "--weights", str(weights), "--device", "cpu"]) == 0
    root = bundle_folder("ich_segmentation")
    words = ["monai.bundle", "run", "--config_file", str(root / "configs" / config), "--bundle_root", str(root)]
    words += ["--weights", str(weights), "--dataset_dir", str(scans), "--output_dir", str(tmp_path / "bundle")]
    done = run_module([*words, "--device_name", "cpu"])
    assert done.returncode == 0, done.stderr[-2000:]
    marked = 0
    for file in sorted((tmp_path / "cli").glob("*_ich.nii.gz")):
        assert (tmp_path / "bundle" / file.name).read_bytes() == file.read_bytes()
        scan = scans / file.name.replace("_ich", "")
        ichseg.segment(scan, output=tmp_path / file.name, weights=weights, device="cpu")
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
        marked += int((np.asarray(nib.load(file).dataobj) > 0).sum())
    assert marked  # masks of nothing would agree whatever the settings
    # Each setting matters: without it the masks differ (a setting nobody reads would be one too many).
    if architecture == "context":
        usual = segmenter_file(tmp_path / "usual.pt", state=torch.load(weights, weights_only=True),
                               **{k: UNUSUAL[k] for k in ("members", "channels", "size", "threshold")})  # fmt: skip
        assert main(["segment", str(scans), str(tmp_path / "usual"), "--weights", str(usual), "--device", "cpu"]) == 0
        assert any((tmp_path / "usual" / f.name).read_bytes() != f.read_bytes()
                   for f in (tmp_path / "cli").glob("*_ich.nii.gz"))  # fmt: skip


def test_an_explicit_setting_wins_and_is_said_and_the_wrong_pipeline_is_refused(phantoms, tmp_path, capsys, caplog):
    weights = segmenter_file(tmp_path / "model.pt", channels=[4, 8, 16], threshold=0.25)
    scan = str(phantoms / "images" / "phantom_000.nii.gz")
    words = ["segment", scan, str(tmp_path / "masks"), "--weights", str(weights), "--no-report", "--device", "cpu"]
    with caplog.at_level("INFO", logger="ichseg"):
        assert main([*words, "--threshold", "0.9"]) == 0
    assert "threshold 0.9 instead of 0.25, the value stored in model.pt" in caplog.text
    with pytest.raises(IchsegError, match=r"'context'\) are run by inference.yaml, not by inference_paper.yaml"):
        BundleParts("ich_segmentation", "inference_paper.yaml", {"weights": str(weights)})["settings"]
    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "old.pt")
    assert main(["segment", scan, str(tmp_path / "x"), "--weights", str(tmp_path / "old.pt")]) == 2
    assert "convert it: ichseg convert-weights" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_old_weights_convert_with_their_json(tmp_path, capsys):
    from ichseg.networks import segmenter

    torch.save(segmenter("small").state_dict(), tmp_path / "model.pt")
    words = ["convert-weights", str(tmp_path / "model.pt"), str(tmp_path / "new.pt")]
    assert main(words) == 2 and "model.json: cannot be read" in capsys.readouterr().err
    (tmp_path / "model.json").write_text('{"size": 96, "window_level": 40, "window_width": 80, "threshold": 0.3}')
    assert main(words) == 0
    settings = read_settings(tmp_path / "new.pt", SegmenterSettings)
    assert (settings.architecture, settings.size, settings.threshold) == ("small", 96, 0.3)
    segmenter("small").load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    (tmp_path / "model.json").write_text('{"size": 96, "architecture": "paper"}')
    assert main(words) == 2 and "weights do not match BasicUNet" in capsys.readouterr().err
    torch.save(slice_classifier("resnet34").state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(
        '{"backbone": "resnet34", "size": 96, "window_level": 50, "window_width": 130}'
    )
    assert main(words) == 0 and "backbone: resnet34" in capsys.readouterr().out
    one = segmenter("context", (4, 8, 16))
    torch.save(one.members[0].state_dict(), tmp_path / "model.pt")  # a member, as 0.6 trained it
    (tmp_path / "model.json").write_text('{"size": 96, "channels": [4, 8, 16], "architecture": "context"}')
    assert main(words) == 0
    one.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))


def test_what_programs_may_change_is_what_is_used():
    """MONAI Label shows ``displayable_configs`` and writes the user's values back into that section."""
    parts = BundleParts("ich_segmentation", "inference.yaml", {"device_name": "cpu"})
    shipped = read_settings(bundle_folder("ich_segmentation") / "models" / "model.pt", SegmenterSettings)
    assert parts["displayable_configs"] == {"threshold": shipped.threshold}
    parts.parser["displayable_configs"].update({"threshold": 0.9})
    parts.parser.parse()
    steps = parts["postprocessing"].transforms
    assert [step.transform.threshold for step in steps if isinstance(step, HemorrhageMaskd)] == [0.9]


def test_pseudo_and_segmentation_evaluation_configs_run(phantoms, tmp_path, capsys):
    from monai.bundle import run

    weights = segmenter_file(tmp_path / "model.pt")
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

    classifier_file(tmp_path / "model.pt")
    folder = bundle_folder("ich_slice_classification") / "configs"
    run(
        config_file=[str(folder / "train.yaml"), str(folder / "evaluate.yaml")],
        meta_file=str(folder / "metadata.json"),
        logging_file=str(folder / "logging.conf"),
        bundle_root=str(folder.parent),
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path),
        val_folds=[1, 4],
        device_name="cpu",
    )
    assert "val_auc: 0." in capsys.readouterr().out and (tmp_path / "metrics.csv").is_file()
    overlay = ConfigParser()
    overlay.read_config([str(folder / "train.yaml"), str(folder / "evaluate.yaml")])
    save_weights(tmp_path / "own.pt", {}, ClassifierSettings("resnet34", 64, 40, 80, strip_skull=True))
    overlay["weights"] = str(tmp_path / "own.pt")
    found = [overlay.get_parsed_content(k) for k in ("size", "window_level", "window_width", "strip_skull")]
    assert found == [64, 40, 80, True]  # as the weights were trained


def test_steps_that_other_programs_run_without_files():
    """They hand every tensor of an item to the inferer, and save by themselves."""
    parts = BundleParts("ich_segmentation", "inference.yaml", {"device_name": "cpu", "output_dir": "none"})
    volume = torch.rand(1, 3, 64, 64, 2)
    found = parts["inferer"](volume, parts["network"].eval(), shown=torch.rand(1, 1, 64, 64, 2))
    assert found.shape == (1, 3, 64, 64, 2)
    keep = next(step for step in parts["postprocessing"].transforms if type(step).__name__ == "KeepForReportd")
    assert keep.enabled and keep({"pred": volume[0], "shown": volume[0]}).keys() == {"pred", "shown"}


def test_the_shipped_classifier_starts_and_evaluates():
    file = bundle_folder("ich_slice_classification") / "models" / "model.pt"
    network = load_pretrained(slice_classifier("efficientnet_lite0"), file)
    whole = BundleParts("ich_slice_classification", "inference.yaml", {"device_name": "cpu"})["network_def"].eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image).softmax(1), whole(image))


def test_slices_get_probabilities_in_the_order_of_the_file(phantoms, tmp_path, capsys):
    weights = classifier_file(tmp_path / "resnet34.pt")
    scan = sorted((phantoms / "images").glob("*.nii.gz"))[0]
    image = nib.load(scan)
    (tmp_path / "scans").mkdir()
    nib.save(image, tmp_path / "scans" / "up.nii.gz")
    turned = nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::-1], image.affine @ np.diag([1, 1, -1, 1]))
    nib.save(turned, tmp_path / "scans" / "down.nii.gz")
    (tmp_path / "scans" / "broken.nii.gz").write_bytes(b"no scan")
    values = {"dataset_dir": str(tmp_path / "scans"), "output_dir": str(tmp_path / "out"), "device_name": "cpu"}
    with pytest.raises(SystemExit) as ended:
        run_bundle("ich_slice_classification", "inference.yaml", {**values, "classifiers": {"resnet34": str(weights)}})
    assert ended.value.code == 1
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "out" / "results.csv").open())}
    assert rows["broken"]["status"] == "failed" and rows["up"]["status"] in ("ok", "flagged")
    tables = {}
    for name in ("up", "down"):
        found = list(csv.DictReader((tmp_path / "out" / f"{name}_slices.csv").open()))
        assert [row["slice"] for row in found] == [str(n + 1) for n in range(image.shape[2])]
        tables[name] = [float(row["probability"]) for row in found]
        assert float(rows[name]["probability"]) == round(max(tables[name]), 4)
    assert tables["up"] == pytest.approx(tables["down"][::-1], abs=2e-4) and len(set(tables["up"])) == image.shape[2]


OWN = """
classifiers: {}
window_level: 50
window_width: 130
strip_skull: false
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
    out = overlaid("ich_pseudo_segmentation", "inference.yaml", OWN, tmp_path, **values)
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
    classifier_file(tmp_path / "resnet34.pt")
    values = {"dataset_dir": str(phantoms), "crf_iterations": 2, "folds": [1], "gate_by": "label", **choice}
    values["classifiers"] = {"resnet34": str(tmp_path / "resnet34.pt")}
    out = overlaid("ich_pseudo_segmentation", "inference.yaml", "batch_size: 4", tmp_path, **values)
    (mask,) = out.glob("*_pseudo.nii.gz")
    assert set(np.unique(nib.load(mask).dataobj)) <= {0, 1}


def test_scoring_first_or_along_and_in_bf16(phantoms, tmp_path):
    classifier_file(tmp_path / "resnet34.pt")
    values = {"dataset_dir": str(phantoms), "crf_iterations": 1, "gate": 0.0, "folds": [1, 2]}
    values["classifiers"] = {"resnet34": str(tmp_path / "resnet34.pt")}
    masks = []
    for number, choice in enumerate(({"score_first": True, "batch_size": 3}, {}, {"precision": "bf16"})):
        here = tmp_path / str(number)
        here.mkdir()
        out = overlaid("ich_pseudo_segmentation", "inference.yaml", "threshold: 0.3", here, **values, **choice)
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
    classifier_file(tmp_path / "resnet34.pt")
    values = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "gate": 0.0, "device_name": "cpu"}
    values["classifiers"] = {"resnet34": str(tmp_path / "resnet34.pt")}
    runner = BundleParts("ich_pseudo_segmentation", "inference.yaml", values)["evaluator"]
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


@pytest.mark.slow
def test_the_papers_unet(phantoms, tmp_path):
    values = {"dataset_dir": str(phantoms), "epochs": 1, "batch_size": 2, "train_folds": [0], "val_folds": [4]}
    values |= {"architecture": "paper", "supervision": "masks"}
    out = overlaid("ich_segmentation", "train_paper.yaml", "dice_weight: 0.5", tmp_path, **values)
    assert read_settings(out / "model.pt", SegmenterSettings).architecture == "paper"
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
    out = overlaid("ich_segmentation", "train_paper.yaml", "slice_label_weight: 0.3", tmp_path, **values)
    assert (out / "model.pt").is_file()
    line = next(csv.DictReader((out / "history.csv").open()))
    assert math.isfinite(float(line["val_loss"]))


@pytest.mark.slow
def test_mistyped_overrides_are_refused(tmp_path, capsys):
    overlay = tmp_path / "own.yaml"
    overlay.write_text("my_key: 1\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").write_text("no scan")
    one = ("ich_segmentation", "inference.yaml")
    guard_bundle_run(*one, ["run", "--threshold", "0.3", "--network_def::architecture=paper", "--run_id", "x"])
    guard_bundle_run("ich_segmentation", "train.yaml", ["run", "--learning_rate", "5e-5"])
    guard_bundle_run(*one, ["run", f"--config_file=['a.yaml','{overlay}']", "--my_key", "2"])
    for words, said in (
        (["--thresold", "0.3"], "--thresold: not a key of .*inference.yaml; did you mean --threshold"),
        (["--my_key=2"], "--my_key: not a key"),
        (["--report", "maybe"], "--report: expected true or false, not 'maybe'"),
        (["--size_limit_gib", "high"], "--size_limit_gib: expected a number, not 'high'"),
        (["--output_dir", "a#b"], "--output_dir: MONAI reads the '#' of 'a#b' as '::'"),
        (["--output_dir", "a #b"], "--output_dir: MONAI reads the '#' of 'a #b' as '::'"),
        (["--threshold", "null"], r"--threshold null: MONAI reads this as text; write '\$None' in single quotes"),
        (["--device_name=None"], r"--device_name None: MONAI takes this for not given; write '\$None'"),
    ):
        with pytest.raises(SystemExit, match="2"):
            guard_bundle_run(*one, ["run", *words])
        assert re.search(said, capsys.readouterr().err)
    root = ["--bundle_root", str(bundle_folder("ich_segmentation"))]
    for words, said in (
        (["--dataset_dirr", str(tmp_path)], "did you mean --dataset_dir?"),
        (["--dataset_dir", str(overlay), "--output_dir", str(tmp_path / "out")], "own.yaml: not a .nii or .nii.gz"),
        (
            ["--threshold", "7", "--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")],
            "between 0 and 1, not 7",
        ),
    ):
        done = monai_run("ich_segmentation", "inference.yaml", tmp_path, *root, *words)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def monai_run(bundle, config, folder, *words):
    """``python -m monai.bundle run`` of one config, started in a folder."""
    file = bundle_folder(bundle) / "configs" / config
    return run_module(["monai.bundle", "run", "--config_file", str(file), *words], folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--postprocessing::transforms::4::treshold", "0.9"], "unknown key of ichseg.transforms.HemorrhageMaskd"),
        (["--network_def::chanels", "3"], "did you mean 'channels'"),
        (["--treshold", "0.9"], "did you mean --threshold"),
    ],
)
@pytest.mark.slow
def test_mistyped_nested_keys_are_one_line(words, said, tmp_path):
    done = monai_run("ich_segmentation", "inference.yaml", tmp_path, "--dataset_dir", ".", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("postprocessing::transforms::99::threshold", "there is no '99' in the config (available: 0 to 11)"),
        ("postprocessing::transforms::4::treshold", "did you mean 'threshold'"),
        ("postprocesing::transforms::4::threshold", "is not a key of"),
        ("displayable_configs::treshold", "there is no 'treshold' in the config; did you mean 'threshold'"),
        ("evaluator::journal::overwrit", "did you mean 'overwrite'"),
    ],
)
def test_mistyped_settings_are_named(key, said, tmp_path, capsys):
    (tmp_path / "a.nii").write_bytes(b"no scan")
    assert main(["segment", str(tmp_path), str(tmp_path / "out"), "--set", f"{key}=0.9"]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") <= 2


@pytest.mark.filterwarnings("ignore")
def test_mistyped_keys_of_a_workflow_are_refused(phantoms, tmp_path):
    from monai.bundle import create_workflow

    config = str(bundle_folder("ich_segmentation") / "configs" / "inference.yaml")
    options = {"dataset_dir": str(phantoms / "images"), "output_dir": str(tmp_path), "workflow_type": "inference"}
    create_workflow(config_file=config, threshold=0.9, my_own_key=1, **options)
    with pytest.raises(RuntimeError) as told:
        create_workflow(config_file=config, treshold=0.9, **options)
    ours = [link for link in chain(told.value) if isinstance(link, IchsegError)]
    assert ours and "did you mean threshold" in str(ours[0])


@pytest.mark.slow
def test_a_run_from_elsewhere_names_bundle_root(tmp_path):
    done = monai_run("ich_pseudo_segmentation", "inference.yaml", tmp_path)
    assert done.returncode == 2 and "--bundle_root" in done.stderr.strip().splitlines()[-1]


def test_numbers_may_be_written_as_in_python():
    for text in ("1e-3", "1.0e-3", "0.001"):
        found = parse_settings("ich_segmentation", "train_recommended.yaml", [f"learning_rate={text}"])
        assert found == {"learning_rate": 0.001}
    with pytest.raises(IchsegError, match="expected a number"):
        parse_settings("ich_segmentation", "train_recommended.yaml", ["learning_rate=1e-3x"])


@pytest.mark.filterwarnings("ignore")
def test_null_takes_the_place_of_a_value(capsys):
    """The bundle is given what Python is; MONAI by itself keeps the config's value."""
    before = config_values("ich_segmentation", "train_recommended.yaml")
    assert before["encoder_weights"] == "auto" and before["inputs"]["size"] == "@size"
    own = {"initialize": [], "inputs": {"size": None}, "run": ["$print('seen', @encoder_weights, @inputs::size)"]}
    run_bundle("ich_segmentation", "train_recommended.yaml", own, ["encoder_weights=null"])
    assert "seen None None\n" in capsys.readouterr().out
    parts = BundleParts("ich_segmentation", "train_recommended.yaml", {**own, "encoder_weights": None})
    assert parts["encoder_weights"] is None
