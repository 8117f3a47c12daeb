"""Exported files give the network's logits, for any number of slices of any size, or are not written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import segmenter_file
from torch import nn

from ichseg.bundle import weight_file
from ichseg.cli import main
from ichseg.errors import IchsegError
from ichseg.networks import ClassifierEnsemble, load_weights, segmenter_of, segmenter_settings, slice_classifier
from ichseg.networks.exported import export_network

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPES = ((1, 64, 64), (4, 96, 64))


def loaded(weights):
    return load_weights(segmenter_of(segmenter_settings(weights)), weights).eval()


def test_three_forms_by_one_command(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    files = [tmp_path / f"model{ending}" for ending in (".ts", ".onnx", ".pt2")]
    assert main(["export", *map(str, files)]) == 0
    assert capsys.readouterr().out.count("logits differ by at most") == 3
    network = loaded(weight_file())
    session = onnxruntime.InferenceSession(str(files[1]))
    runs = [
        torch.jit.load(files[0]).eval(),
        lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0]),
        torch.export.load(files[2]).module(),
    ]
    for count, height, width in SHAPES:
        image = torch.rand(count, 3, height, width)
        with torch.no_grad():
            expected = network(image)
            for run in runs:
                np.testing.assert_allclose(run(image), expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ["context", "small", "label_efficient_attention"])
def test_weights_of_ones_own(architecture, tmp_path):
    weights = segmenter_file(tmp_path / "own.pt", architecture)
    assert main(["export", str(tmp_path / "own.ts"), "--weights", str(weights)]) == 0
    image = torch.rand(2, 3 if architecture == "context" else 1, 96, 64)
    with torch.no_grad():
        expected = loaded(weights)(image)
        np.testing.assert_allclose(torch.jit.load(tmp_path / "own.ts").eval()(image), expected, atol=1e-4)


def test_attention_is_exported_too(tmp_path):
    weights = segmenter_file(tmp_path / "own.pt", "label_efficient_attention")
    assert main(["export", str(tmp_path / "own.pt2"), "--weights", str(weights)]) == 0
    image = torch.rand(2, 1, 96, 64)
    with torch.no_grad():
        found = torch.export.load(tmp_path / "own.pt2").module()(image)
        np.testing.assert_allclose(found, loaded(weights)(image), atol=1e-4)


def test_a_volume_goes_through_as_its_slices_do(tmp_path):
    network = loaded(segmenter_file(tmp_path / "own.pt"))
    volume = torch.rand(2, 3, 64, 32, 5)
    with torch.no_grad():
        whole = network(volume)
        assert whole.shape == (2, 3, 64, 32, 5)
        torch.testing.assert_close(whole[1, ..., 3], network(volume[1:, ..., 3])[0], atol=1e-5, rtol=0)


def test_an_ensemble_of_classifiers_is_torchscript(tmp_path):
    network = ClassifierEnsemble([slice_classifier(name) for name in ("resnet34", "efficientnet_lite0")], vote="both")
    assert network.training
    assert export_network(network, tmp_path / "both.ts", 1, 64) < 1e-4
    assert network.training


def test_what_cannot_be_written_is_known_before_anything_is(tmp_path, capsys):
    (tmp_path / "folder.pt2").mkdir()
    for wrong, said in (("folder.pt2", "is a folder"), ("model.pth", "the name must end in")):
        assert main(["export", str(tmp_path / "first.ts"), str(tmp_path / wrong)]) == 2
        assert f"{tmp_path / wrong}: {said}" in capsys.readouterr().err
    assert not (tmp_path / "first.ts").exists()


class Unsteady(nn.Module):
    """Differs every time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + torch.rand_like(x)


class Rigid(Unsteady):
    """In words that TorchScript does not know, for slices of one size: a trace serves for no other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + torch.ones([*map(int, x.shape)], dtype=getattr(torch, "float" + "32"))


def test_what_differs_or_cannot_be_written_is_not_there(tmp_path, monkeypatch, capsys):
    with pytest.raises(IchsegError, match=r"odd\.ts: not written, since its logits differ"):
        export_network(Unsteady(), tmp_path / "odd.ts", 1, 32)
    with pytest.raises(IchsegError, match=r"odd\.ts: this network cannot be exported to this format"):
        export_network(Rigid(), tmp_path / "odd.ts", 1, 32)
    assert main(["export", str(tmp_path / "model.trt")]) == 2
    assert "must end in one of .ts, .onnx, .pt2" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "model.onnx")]) == 2
    assert "pip install 'ichseg[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
