"""Segmenting, maps and training multiply no subnormal numbers. (The dense CRF: test_crf.)"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import torch_threads
from subnormals import Subnormals

from ichseg.bundle import bundle_folder
from ichseg.inference.segmenter import Segmenter
from ichseg.networks import load_ensemble, load_weights
from ichseg.synthetic.phantom import phantom_scan
from ichseg.transforms import BrainWindow, ShallowFeatureCAM


@pytest.fixture
def one_thread():
    """What other threads do is not counted."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def scan():
    return phantom_scan(0, ("IPH", "SDH"), 128, 8)


def check(counted, operations):
    assert sum(counted.found.values()) == 0 and len(counted.found) > operations, counted.found.most_common(3)


def test_they_are_counted():
    with Subnormals() as counted:
        torch.tensor([1e-30, 1.0]) * 1e-10
    assert sum(counted.found.values()) == 1


def test_segmenting(one_thread, scan):
    model = Segmenter(device="cpu")
    with Subnormals() as counted:
        mask = model(scan.image, scan.affine)
    assert mask.any()
    check(counted, 30)


def test_maps(one_thread, scan):
    weights = bundle_folder("ich_pseudo_segmentation") / "models" / "model.pt"
    maps_of = ShallowFeatureCAM(load_ensemble({"efficientnet_lite0": weights}), gate=0.0)
    with Subnormals() as counted:
        maps, _ = maps_of(BrainWindow(50, 130)(torch.from_numpy(scan.image).float()[None]))
    assert all(one.any() for one in maps)
    check(counted, 30)


def test_a_training_step(one_thread, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    from train_step import step_of

    step = step_of(SimpleNamespace(device="cpu", precision="fp32", size=64), False)
    for _ in range(2):
        with Subnormals() as counted:
            step()
        check(counted, 50)


def test_weights_that_are_none_stay_what_they_are(tmp_path):
    network = torch.nn.BatchNorm1d(4)
    state = network.state_dict() | {"running_var": torch.tensor([1e-40, 1e-37, 3e-5, -2.0])}
    state["weight"] = state["weight"] * 3e-7  # a subnormal number of half precision, but none of single
    torch.save({**state, "weight": state["weight"].half()}, tmp_path / "w.pt")
    loaded = load_weights(network, tmp_path / "w.pt")
    assert loaded.running_var.tolist() == torch.tensor([0, 1e-37, 3e-5, -2.0]).tolist()
    assert (loaded.weight > 0).all()
