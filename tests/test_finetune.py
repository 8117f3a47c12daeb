"""Training the shipped kind of network further on masks."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch
from conftest import masked_pairs, segmenter_file

from ichseg.bundle import bundle_folder, config_values, run_bundle
from ichseg.errors import IchsegError, chain
from ichseg.networks import SegmenterSettings, read_settings
from ichseg.training import PrepareMasked, run_folder
from ichseg.transforms import head_ct_loader

PARTS = {"train": (0, 1), "validate": (4,)}


@pytest.fixture
def bundle(tmp_path):
    """A bundle of one's own, with small weights."""
    folder = tmp_path / "ich_segmentation"
    shutil.copytree(bundle_folder("ich_segmentation"), folder, ignore=shutil.ignore_patterns("*.pt", "runs"))
    (folder / "models").mkdir(exist_ok=True)
    segmenter_file(folder / "models" / "model.pt", threshold=0.25, score_slope=2.0)
    return folder


def trained(bundle, phantoms, **values):
    given = {"dataset_dir": str(phantoms), "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "val_folds": [4]}
    run_bundle("ich_segmentation", "train.yaml", {**given, "bundle_root": bundle, "device_name": "cpu", **values})


def test_weights_go_on_and_keep_their_settings(bundle, phantoms, tmp_path):
    before = (bundle / "models" / "model.pt").read_bytes()
    trained(bundle, phantoms, output_dir=tmp_path / "run")
    assert (bundle / "models" / "model.pt").read_bytes() == before
    old, new = (
        read_settings(file, SegmenterSettings)
        for file in (bundle / "models" / "model.pt", tmp_path / "run" / "model.pt")
    )
    assert new == old and new.threshold == 0.25 and new.score_slope == 2
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert len(rows) == 2 and float(rows[1]["val_loss"]) < float(rows[0]["val_loss"])
    starts, ends = (
        torch.load(file, weights_only=True) for file in (bundle / "models" / "model.pt", tmp_path / "run" / "model.pt")
    )
    moved = [key for key in starts if not torch.equal(starts[key], ends[key])]
    assert starts.keys() == ends.keys() and "members.0.outline.3.weight" in moved


def test_pairs_of_image_and_label_replace_the_bundles_weights(bundle, phantoms):
    before = (bundle / "models" / "model.pt").read_bytes()
    values = {f"{part}::dataset::data": masked_pairs(phantoms, folds) for part, folds in PARTS.items()}
    for number in (1, 2):  # twice: each time from where the bundle is
        start = (bundle / "models" / "model.pt").read_bytes()
        trained(bundle, phantoms, epochs=1, **values)
        assert (bundle / "models" / "model_before.pt").read_bytes() == start
        made = bundle / "runs" / f"finetuned_{number}" / "model.pt"
        assert (bundle / "models" / "model.pt").read_bytes() == made.read_bytes() != start
    assert run_folder(None, bundle) == bundle / "runs" / "finetuned_3"
    assert (bundle / "models" / "model_before.pt").read_bytes() != before


def test_nothing_to_validate_on_is_one_line(bundle, phantoms):
    with pytest.raises(Exception) as caught:
        trained(bundle, phantoms, **{"validate::dataset::data": []})
    assert any(isinstance(link, IchsegError) and "no scans" in str(link) for link in chain(caught.value))
    assert not list(bundle.glob("models/model_before.pt"))


def test_inputs_are_those_of_inference():
    def steps(name):
        return list(config_values("ich_segmentation", name)["preprocessing"]["transforms"])

    beside = {"CopyItemsd", "ichseg.transforms.CompareAppearanced"}
    shown = [step for step in steps("inference.yaml") if step["_target_"] not in beside]
    loading = [type(step).__name__ for step in head_ct_loader().transforms]
    assert [step["_target_"].split(".")[-1] for step in shown[: len(loading)]] == loading
    assert steps("train.yaml")[0]["_target_"].endswith("head_ct_loader")
    for mine, its in zip(steps("train.yaml")[1:], shown[len(loading) :], strict=True):
        assert mine["_target_"] == its["_target_"]
        same = set(mine) & set(its) - {"keys", "mode"}
        assert [mine[key] for key in sorted(same)] == [its[key] for key in sorted(same)]


def test_targets_are_the_masks_and_whether_there_is_one():
    image, mask = torch.rand(3, 3, 8, 8), torch.zeros(3, 1, 8, 8)
    mask[1, 0, 2:4, 2:5] = 1
    x, target = PrepareMasked()({"image": image, "label": mask}, torch.device("cpu"))
    assert torch.equal(x, image) and torch.equal(target["mask"], mask) and target["label"].tolist() == [0, 1, 0]
    _, doubled = PrepareMasked(lambda a, b: (a / 2, 1 - b))({"image": image, "label": mask}, torch.device("cpu"))
    np.testing.assert_array_equal(doubled["mask"], 1 - mask)
    assert doubled["label"].tolist() == [0, 1, 0]
