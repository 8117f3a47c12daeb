"""The ResNet-LSTM method from slice labels to pseudo-masks."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from conftest import sequence_file
from monai.data import MetaTensor

from ichseg.bundle import BundleParts, run_bundle
from ichseg.data import SliceDataset, balanced_sampler, load_datalist
from ichseg.methods.resnet_lstm import (
    SequenceMasksd,
    SequenceScorer,
    SliceSequences,
    load_sequence_classifier,
    middle_score_and_label,
)
from ichseg.synthetic.phantom import prepare_phantom


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences") / "data"
    prepare_phantom(folder, scans=10, seed=2, size=64, slices=6)
    return folder


def test_windows_stay_within_their_scan(data):
    reading = BundleParts("resnet_lstm", "train.yaml", {"size": 64})["preprocessing"]
    slices = SliceDataset(load_datalist(data / "datalist.json", "0,1"), reading, progress=False)
    sequences = SliceSequences(slices, 5)
    assert len(sequences) == len(slices) and torch.equal(sequences.positive, slices.positive)
    for number in (0, 3, 5, 6, len(slices) - 1):
        item, scan = sequences[number], number // 6 * 6
        places = [min(max(number + away, scan), scan + 5) for away in range(-2, 3)]
        assert item["image"].shape == (5, 1, 64, 64)
        assert torch.equal(item["image"][:, 0], slices.images[places, 0].float())
        labels = [-1 if (number + away != place) else int(slices.labels[place])
                  for away, place in zip(range(-2, 3), places, strict=True)]  # fmt: skip
        assert item["label"].tolist() == labels
    assert len(list(balanced_sampler(sequences, 0.5, 7))) == 7
    flipped = SliceSequences(slices, 5, lambda one: {"image": one["image"].flip(1)})
    assert torch.equal(flipped[3]["image"], sequences[3]["image"].flip(2))
    score, label = middle_score_and_label({"pred": torch.tensor([0.0, 2, 0]), "label": torch.tensor([-1, 1, 0])})
    assert score.tolist() == [[pytest.approx(0.8808, abs=1e-4)]] and label.tolist() == [[1]]


def test_every_slice_is_scored_in_its_own_window(tmp_path):
    network, made = load_sequence_classifier(sequence_file(tmp_path / "model.pt"))
    volume = torch.rand(1, 1, 64, 64, 5)
    with torch.no_grad():
        scores = SequenceScorer(made.length, batch_size=2)(volume, network)
        expected = network(volume[0].movedim(-1, 0)[None, [1, 2, 3]])[0, 1].sigmoid()
    assert scores.shape == (1, 5) and float(scores[0, 2]) == pytest.approx(float(expected), abs=1e-6)


def test_slices_below_the_gate_stay_empty(tmp_path):
    network, made = load_sequence_classifier(sequence_file(tmp_path / "model.pt"))
    image = MetaTensor(torch.rand(1, 64, 64, 4), affine=torch.eye(4))
    step = SequenceMasksd("image", network, length=made.length)
    item = step({"image": image, "pred": torch.tensor([[0.1, 0.9, 0.2, 0.3]])})
    assert item["pred"].shape == item["score"].shape == (1, 64, 64, 4) and item["pred"].dtype == torch.uint8
    assert not item["score"][..., [0, 2, 3]].any() and not item["pred"][..., [0, 2, 3]].any()
    assert item["score"].min() >= 0 and item["score"].max() <= 1


@pytest.mark.slow
def test_from_labels_to_pseudo_masks(data, tmp_path):
    values = {"dataset_dir": str(data), "device_name": "cpu"}
    training = {"size": 64, "epochs": 2, "hidden": 8, "length": 3, "samples_per_epoch": 8}
    run_bundle("resnet_lstm", "train.yaml", {**values, **training, "output_dir": str(tmp_path / "run")})
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 3
    weights = str(tmp_path / "run" / "model.pt")
    values |= {"weights": weights, "gate": 0.0, "least_mean": 0.0, "folds": [3, 4], "save_scores": True}
    run_bundle("resnet_lstm", "generate.yaml", {**values, "output_dir": str(tmp_path / "out")})
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    scans = load_datalist(data / "datalist.json", "3,4")
    assert len(rows) == len(scans) and all(row["status"] != "failed" for row in rows)
    scan = scans[0]
    mask = nibabel.load(tmp_path / "out" / f"{scan['case']}_pseudo.nii.gz")
    source = nibabel.load(scan["image"])
    assert mask.shape == source.shape and np.allclose(mask.affine, source.affine, atol=1e-4)
