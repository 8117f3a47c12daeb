"""The same numbers on a GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from ichseg.cam import METHODS, CAMExtractor
from ichseg.crf import DenseCRF
from ichseg.networks import BACKBONES, cam_layers, slice_classifier

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on(device, network, layers, method, x):
    with CAMExtractor(network.to(device), layers, method) as extractor:
        return [one.cpu() for one in extractor(x.to(device))[1].values()]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "cam"])
def test_cam_methods(method):
    network, x = slice_classifier("resnet34").eval(), torch.rand(2, 1, 64, 64)
    for cpu, gpu in zip(*(on(d, network, ["layer1", "layer2"], method, x) for d in ("cpu", "cuda")), strict=True):
        torch.testing.assert_close(cpu, gpu, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones(backbone):
    network, x = slice_classifier(backbone).eval(), torch.rand(2, 1, 64, 64)
    for cpu, gpu in zip(*(on(d, network, cam_layers(backbone), "layer_cam", x) for d in ("cpu", "cuda")), strict=True):
        torch.testing.assert_close(cpu, gpu, atol=1e-3, rtol=1e-2)


def test_dense_crf():
    p, image = torch.rand(2, 2, 40, 40).softmax(1), (torch.rand(2, 1, 40, 40) * 255).round()
    torch.testing.assert_close(DenseCRF(2)(p, image), DenseCRF(2)(p.cuda(), image.cuda()).cpu(), atol=1e-4, rtol=0)
