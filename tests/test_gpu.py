"""The same numbers on a GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor

from ichseg.cam import METHODS, CAMExtractor
from ichseg.crf import DenseCRF
from ichseg.inference import PrecisionInferer
from ichseg.networks import BACKBONES, cam_layers, context_network, slice_classifier
from ichseg.training import GraphedInferer
from ichseg.transforms import (
    FillSmallHoles,
    HeadCrop,
    KeepIntracranial,
    NeighborSlices,
    RemoveSmallLesions,
    ShallowFeatureCAM,
    SliceResize,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    """Convolutions of float32 are rounded to TF32 on a GPU unless told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on(device, network, layers, method, x, precision=torch.float32):
    with CAMExtractor(network.to(device, precision), layers, method) as extractor:
        return [one.cpu() for one in extractor(x.to(device, precision))[1].values()]


@pytest.mark.parametrize("method", [m for m in METHODS if m != "cam"])
def test_cam_methods(method):
    network, x = slice_classifier("resnet34").eval(), torch.rand(2, 1, 64, 64)
    # In double precision: powers of small gradients do not forgive rounding.
    sides = (on(device, network, ["layer1", "layer2"], method, x, torch.float64) for device in ("cpu", "cuda"))
    for cpu, gpu in zip(*sides, strict=True):
        torch.testing.assert_close(cpu, gpu, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbones(backbone):
    network, x = slice_classifier(backbone).eval(), torch.rand(2, 1, 64, 64)
    for cpu, gpu in zip(*(on(d, network, cam_layers(backbone), "layer_cam", x) for d in ("cpu", "cuda")), strict=True):
        assert cpu.max() > 0
        torch.testing.assert_close(cpu / cpu.max(), gpu / cpu.max(), atol=1e-2, rtol=0)


def test_transforms_take_what_is_on_the_gpu():
    torch.manual_seed(0)
    affine = torch.diag(torch.tensor([-1.0, -1.0, 5.0, 1.0]))
    scan = torch.full((1, 64, 64, 6), -1000.0)
    scan[:, 8:56, 8:56] = 35 + torch.rand(48, 48, 6)
    mask = (torch.rand(1, 64, 64, 6) > 0.6).float()
    for transform, values in (
        (FillSmallHoles(3.0), mask), (RemoveSmallLesions(0.05), mask), (HeadCrop(32), scan), (SliceResize(32), scan),
        (NeighborSlices(), scan),
    ):  # fmt: skip
        cpu, gpu = (transform(MetaTensor(values.clone().to(device), affine=affine)) for device in ("cpu", "cuda"))
        assert gpu.device.type == "cuda"
        torch.testing.assert_close(cpu.as_tensor(), gpu.as_tensor().cpu(), atol=1e-3, rtol=0)
    gray = (scan.clamp(0, 80) / 80).cuda()
    kept = KeepIntracranial(40, 80)(MetaTensor(mask.cuda(), affine=affine), MetaTensor(gray, affine=affine))
    assert kept.device.type == "cuda"


def test_dense_crf():
    p, image = torch.rand(2, 2, 40, 40).softmax(1), (torch.rand(2, 1, 40, 40) * 255).round()
    torch.testing.assert_close(DenseCRF(2)(p, image), DenseCRF(2)(p.cuda(), image.cuda()).cpu(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "labels"), [((96, 80), 2), ((96, 80), 4), ((8, 40, 36), 2)])
def test_dense_crf_gives_the_same_bits_again(size, labels):
    p, image = torch.rand(4, labels, *size).softmax(1).cuda(), (torch.rand(4, 1, *size) * 255).round().cuda()
    first = DenseCRF(5)(p, image)
    for _ in range(3):
        assert torch.equal(DenseCRF(5)(p, image), first)
    torch.testing.assert_close(DenseCRF(5)(p.cpu(), image.cpu()), first.cpu(), atol=1e-3, rtol=0)
    exact = DenseCRF(1, backend="exact")(p, image)
    assert (DenseCRF(1)(p, image) - exact).abs().mean() < 3e-4


def test_dense_crf_as_a_layer():
    p = torch.rand(2, 2, 32, 32).softmax(1).cuda().requires_grad_(True)
    DenseCRF(2)(p, torch.rand(2, 1, 32, 32).cuda() * 255)[:, 1].mean().backward()
    assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pseudo_label_maps(precision):
    networks = [slice_classifier("resnet34").eval(), slice_classifier("resnet50").eval()]
    volume = torch.rand(1, 64, 64, 5)
    cpu, there = (
        ShallowFeatureCAM(networks, gate=0, device=device, batch_size=4, precision=precision)(volume)
        for device in ("cpu", "cuda")
    )
    tolerance = 1e-2 if precision == "fp32" else 0.2
    for a, b in zip(cpu[0], there[0], strict=True):
        assert (a - b).abs().mean() < tolerance
    torch.testing.assert_close(cpu[1], there[1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_passes_train_alike(precision):
    network = context_network("lite", dropout=0.0).cuda().train()
    twin = copy.deepcopy(network)
    recorded, plain = GraphedInferer(precision), PrecisionInferer(precision)
    recorded(torch.rand(4, 3, 64, 64).cuda(), network)
    for size in (64, 64, 96):  # another size than the recorded one runs, too
        x, found = torch.rand(4, 3, size, size).cuda(), []
        for inferer, one in ((recorded, network), (plain, twin)):
            one.zero_grad(set_to_none=True)
            logits = inferer(x, one)
            logits.square().mean().backward()
            gradient = torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])
            found.append((logits.detach().clone(), gradient))
        (logits, gradient), (expected, expected_gradient) = found
        assert (logits - expected).norm() < 0.02 * expected.norm()
        if precision == "fp32":
            assert (gradient - expected_gradient).norm() < 2e-2 * expected_gradient.norm()
        # Bilinear resizing adds its gradients in any order: rounded to bf16, those of a fresh network differ by 2 %.
        assert torch.cosine_similarity(gradient, expected_gradient, dim=0) > 0.95
    network.eval()
    with torch.no_grad():
        assert recorded(x[:1], network).shape == (1, 3, 96, 96)
