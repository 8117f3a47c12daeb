"""What a preset takes for the same training, and what it fits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ichseg.bundle import BundleParts, config_values, weight_file
from ichseg.errors import IchsegError
from ichseg.networks import segmenter_settings
from ichseg.presets import preset
from ichseg.synthetic.phantom import prepare_phantom


@pytest.fixture
def train(phantoms, tmp_path, monkeypatch):
    """``train(*settings)`` runs the preset's training in one folder, without its bundle; True if it was done anew."""
    runs = []

    def instead(_bundle, _config, overrides, *_):
        runs.append(overrides)
        (Path(overrides["output_dir"]) / "model.pt").write_bytes(b"weights")

    monkeypatch.setattr(preset, "run_bundle", instead)

    def run(*settings):
        before = len(runs)
        overrides = {"datalist": phantoms / "datalist.json", "output_dir": tmp_path / "run", "epochs": 2}
        preset.trained("train_recommended.yaml", tmp_path / "run", overrides, settings)
        return len(runs) > before

    (tmp_path / "run").mkdir()
    return run


def test_the_same_settings_are_not_trained_twice(train):
    assert train("dropout=0.2") and not train("dropout=0.2")
    usual = config_values("ich_segmentation", "train_recommended.yaml")["clip_gradient"]
    assert not train("dropout=0.2", f"clip_gradient={usual}", "num_workers=1")
    with pytest.raises(IchsegError, match=r"made with dropout 0\.2, now 0\.1"):
        train("dropout=0.1")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("learning_rate=$1e-3", "learning_rate=$1e-2"),
        ("train::trainer::amp=$True", "train::trainer::amp=$False"),
        ("optimizer={_target_: torch.optim.SGD, params: $@network.parameters()}", "dropout=0.3"),
        ("train::prepare::augment::noise=0", "train::prepare::augment::noise=1"),
    ],
)
def test_expressions_and_parts_of_the_config_are_settings_too(train, first, second):
    assert train(first) and not train(first)
    with pytest.raises(IchsegError, match=first.partition("=")[0]):
        train(second)


def test_a_part_that_is_switched_off_later_is_a_change(train):
    assert train() and not train()
    with pytest.raises(IchsegError, match="train::prepare::augment::noise as in the config, now 0"):
        train("train::prepare::augment::noise=0")


def test_a_scan_rewritten_under_its_name_is_another(train, phantoms):
    assert train()
    first, second, *_ = sorted((phantoms / "images").iterdir())
    before = first.read_bytes()
    try:
        first.write_bytes(second.read_bytes())
        with pytest.raises(IchsegError, match="a different images"):
            train()
    finally:
        first.write_bytes(before)
    assert not train()


def test_a_model_of_an_earlier_version_is_kept_and_told_of_in_full(train, tmp_path):
    assert train()
    file = tmp_path / "run" / "made_of.json"
    record = json.loads(file.read_text())
    now = record["made_of"]
    assert now["precision"] == "fp32" and now["images"]
    file.write_text(json.dumps({**record, "made_of": {**now, "images": None, "precision": None}}))
    with pytest.raises(IchsegError, match='precision "fp32", now "bf16"'):
        train("precision=bf16")
    assert not train() and json.loads(file.read_text())["made_of"] == now


def test_a_start_that_depends_on_a_package_is_what_it_came_to(train, tmp_path, monkeypatch):
    (tmp_path / "imagenet.pth").write_bytes(b"weights")
    monkeypatch.setattr("ichseg.training.same_run.imagenet_file", lambda: None)
    assert train() and json.loads((tmp_path / "run" / "made_of.json").read_text())["made_of"]["encoder_weights"] is None
    assert not train("encoder_weights=null")
    monkeypatch.setattr("ichseg.training.same_run.imagenet_file", lambda: tmp_path / "imagenet.pth")
    with pytest.raises(IchsegError, match="encoder_weights"):
        train()


def test_scans_are_compared_as_they_were_measured(tmp_path):
    """Thin slices are averaged after inference has compared a scan with the training scans; so must these be."""
    prepare_phantom(tmp_path, scans=1, seed=4, size=64, slices=96)
    (scan,) = (tmp_path / "images").iterdir()
    made = segmenter_settings(weight_file())
    values = {key: getattr(made, key) for key in config_values("ich_segmentation", "train_recommended.yaml")["inputs"]}
    assert made.slab_mm > 122 / 96 and made.remove_cupping
    measured = preset.as_compared(values)({"image": str(scan)})["image"]
    steps = BundleParts("ich_segmentation", "inference.yaml", {"weights": weight_file()})["preprocessing"].transforms
    item = {"image": str(scan)}
    for step in steps:
        if type(step).__name__ == "CompareAppearanced":
            break
        item = step(item)
    np.testing.assert_allclose(measured, item["image"], atol=1e-4)


def test_the_score_is_fitted_on_slices_as_the_members_saw_them(phantoms, tmp_path, monkeypatch):
    given = []

    def parts(_bundle, _config, values):
        given.append(values)
        return {"validate::packed": None, "preprocessing": None}

    monkeypatch.setattr(preset, "BundleParts", parts)
    monkeypatch.setattr(preset, "join_members", lambda files, joined: joined.write_bytes(b""))
    for name in ("fit_reference", "fit_score"):
        monkeypatch.setattr(preset, name, lambda *_: None)
    path = "preprocessing::transforms::0::size_limit_gib"
    plan = preset.Plan(phantoms / "datalist.json", tmp_path, settings=(f"{path}=7", "size=96"), overrides={"epochs": 3})
    preset.complete(plan, [weight_file()])
    made = segmenter_settings(weight_file())
    assert len(given) == 2 and all(one[path] == 7 and one["epochs"] == 3 for one in given)
    assert all(one["size"] == made.size and one["val_folds"] == [3] for one in given), "as the weight file says"


def test_the_better_value_of_a_metric_is_kept():
    for metric, mode in (("val_loss", "min"), ("val_auc", "max")):
        parts = BundleParts("ich_slice_classification", "train.yaml", {"select_metric": metric})
        assert parts["select_mode"] == mode


def test_the_papers_network_is_known_by_its_classifiers(phantoms, tmp_path, monkeypatch):
    """Trained again, they make other pseudo-masks: a finished network of the former ones is not this one."""
    marks = []

    def trained(config, folder, overrides, settings, bundle="ich_segmentation", inputs=None):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt").write_bytes(f"{folder.name} {len(marks)}".encode())
        marks.append(inputs)
        return folder / "model.pt"

    monkeypatch.setattr(preset, "trained", trained)
    monkeypatch.setattr(preset, "run_bundle", lambda *args: None)
    for _ in range(2):
        preset.paper(preset.Plan(phantoms / "datalist.json", tmp_path / "out"))
    first, again = marks[2], marks[5]
    assert set(first["classifiers"]) == set(again["classifiers"]) and first != again


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"settings": ("size=64",)}, "this reaches the U-Net only, and 'size' belongs to every step"),
        ({"settings": ("precision=bf16",)}, "'precision' belongs to every step"),
        ({"cache": Path("cache")}, "--cache requires --preset recommended"),
        ({"members": 2}, "--members and --member require"),
    ],
)
def test_what_the_papers_preset_cannot_follow_is_refused(values, said, phantoms, tmp_path):
    with pytest.raises(IchsegError, match=said):
        preset.train_preset("paper", preset.Plan(phantoms / "datalist.json", tmp_path / "out", **values))
    assert not (tmp_path / "out").exists()
