"""Backends give the masks of torch, or one line that says why not."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import segmenter_file

from ichseg.bundle import bundle_folder, config_values
from ichseg.cli import main
from ichseg.defaults import BACKENDS
from ichseg.errors import IchsegError
from ichseg.inference.segmenter import Segmenter
from ichseg.networks import load_weights, on_backend, segmenter_of, segmenter_settings
from ichseg.provenance import network_hash

OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not there"))
    for name in BACKENDS[1:]
]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("architecture", ["lite", "small"])
def test_logits_are_those_of_torch(backend, architecture, tmp_path):
    weights = segmenter_file(tmp_path / "own.pt", architecture)
    settings = segmenter_settings(weights)
    network = load_weights(segmenter_of(settings), weights).eval()
    other = on_backend(network, backend, settings.in_channels, "cpu")
    for shape in ((1, 64, 64), (5, 96, 160), (1, 64, 64)):
        image = torch.rand(shape[0], settings.in_channels, *shape[1:])
        with torch.no_grad():
            np.testing.assert_allclose(other(image), network(image), atol=1e-4)
    assert network_hash(other) != network_hash(network)  # a folder is done again with another backend


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not there")
def test_torch_without_its_older_exporter(monkeypatch):
    def gone(*_):
        raise TypeError("dynamo")

    monkeypatch.setattr("ichseg.networks.exported._trace_onnx", gone)
    network = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    image = torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        np.testing.assert_allclose(on_backend(network, "onnxruntime", 1, "cpu")(image), network(image), atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
def test_masks_of_a_folder_are_those_of_torch(backend, phantoms, tmp_path):
    masks, tables = {}, {}
    for name in ("torch", backend):
        words = ["segment", str(phantoms / "images"), str(tmp_path / name), "--device", "cpu", "--no-report"]
        assert main([*words, "--backend", name]) == 0
        files = sorted((tmp_path / name).glob("*_ich.nii.gz"))
        masks[name] = np.stack([np.asarray(nib.load(file).dataobj) for file in files])
        with (tmp_path / name / "results.csv").open() as stream:
            tables[name] = [(row["case"], row["status"], row["volume_ml"]) for row in csv.DictReader(stream)]
    assert masks["torch"].any()
    # A voxel whose probability is the threshold but for rounding may go either way.
    assert (masks["torch"] != masks[backend]).sum() <= 1e-4 * masks["torch"].sum()
    assert [row[:2] for row in tables["torch"]] == [row[:2] for row in tables[backend]]
    scan = sorted((phantoms / "images").glob("*.nii.gz"))[0]
    python = Segmenter(device="cpu", backend=backend)(scan)
    np.testing.assert_array_equal(python, masks[backend][0])


@pytest.mark.skipif(importlib.util.find_spec("openvino_telemetry") is None, reason="nothing that could report")
def test_nothing_is_reported_over_the_network():
    code = """
import socket, sys, torch
def refuse(*more):
    raise SystemExit("a connection")
socket.socket.connect = refuse
from ichseg.networks import on_backend
on_backend(torch.nn.Conv2d(1, 1, 1), "openvino", 1, "cpu")(torch.zeros(1, 1, 4, 4))
assert not [name for name, module in sys.modules.items() if "openvino_telemetry" in name and module is not None]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_backend_cannot_do_is_one_line(phantoms, tmp_path, monkeypatch, capsys):
    network = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(IchsegError, match="backend must be one of torch, openvino, onnxruntime, not 'tensorrt'"):
        on_backend(network, "tensorrt", 1, "cpu")
    with pytest.raises(IchsegError, match="backend openvino: runs on the CPU only"):
        on_backend(network, "openvino", 1, "cuda:0")
    assert on_backend(network, "torch", 1, "cuda:0") is network
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "openvino" else find(name, *more)
    )
    words = ["segment", str(phantoms / "images"), str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--backend", "openvino"]) == 2
    assert "backend openvino: not installed; run: pip install 'ichseg[openvino]'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: True)
    with pytest.raises(IchsegError, match="backend onnxruntime: precision bf16 is not supported"):
        on_backend(network, "onnxruntime", 1, "cpu", "bf16")


def test_the_configs_know_the_backends():
    for config in ("inference.yaml", "inference_paper.yaml"):
        assert config_values("ich_segmentation", config)["backend"] == BACKENDS[0]
        line = next(line for line in (bundle_folder("ich_segmentation") / "configs" / config).read_text().splitlines()
                    if line.startswith("backend:"))  # fmt: skip
        assert " | ".join(BACKENDS) in line


@pytest.mark.parametrize("backend", OTHERS)
def test_callers_do_not_get_in_each_others_way(backend):
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    other = on_backend(network, backend, 1, "cpu")
    images = [torch.full((1, 1, 64, 64), float(number)) for number in range(64)]
    with torch.no_grad(), ThreadPoolExecutor(8) as pool:
        for image, result in zip(images, pool.map(other, images), strict=True):
            np.testing.assert_allclose(result, network(image), atol=1e-4)
