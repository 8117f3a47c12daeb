"""Class activation maps: the worked numbers, invariants, and an extractor that leaves no trace."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import DenseNet121
from monai.visualize import GradCAM, GradCAMpp
from torch import nn

from ichseg.cam import (
    CAMExtractor,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    min_max,
    principal_component,
    shallow_feature_cam,
)
from ichseg.networks import slice_classifier

A = torch.tensor([[[[1.0, 2], [0, 4]], [[3, 0], [1, 1]]]])
G = torch.tensor([[[[0.5, -1], [2, 1]], [[-1, 1], [0.5, 0]]]])
C = torch.tensor([[[0.125, 0], [0.125, 1]]])


def close(value, expected, atol=1e-4):
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), atol=atol, rtol=0)


def test_layer_cam_worked_example():
    close(layer_cam(A, G), [[[0.5, 0], [0.5, 4]]])
    close(min_max(layer_cam(A, G)), C)


def test_grad_cam_worked_example():
    close(grad_cam(A, G), [[[1, 1.25], [0.125, 2.625]]])


def test_layer_cam_equals_grad_cam_for_constant_nonnegative_gradients():
    activations = torch.randn(3, 5, 4, 6)
    gradients = torch.rand(3, 5, 1, 1).expand(3, 5, 4, 6)
    torch.testing.assert_close(layer_cam(activations, gradients), grad_cam(activations, gradients))


def test_outer_relu_matters_for_negative_activations():
    assert layer_cam(-torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2)).eq(0).all()


def test_min_max_is_not_inverted_and_survives_constants():
    close(min_max(torch.tensor([[[0.0, 1], [2, 4]]])), [[[0, 0.25], [0.5, 1]]])
    assert min_max(torch.full((2, 3, 3), 7.0)).eq(0).all()


def test_principal_component_spatial_worked_example():
    scores = principal_component(A)
    expected = torch.tensor([[[-1.3176, 0.6737], [-1.5502, 2.1942]]])
    sign = torch.sign((scores * expected).sum())
    close(scores * sign, expected)


def test_principal_component_channel_worked_example():
    component = principal_component(A, "channel")
    expected = torch.tensor([[[-0.4714, 0.4714], [-0.2357, 0.7071]]])
    close(component * torch.sign((component * expected).sum()), expected)


@pytest.mark.parametrize("mode", ["spatial", "channel"])
def test_principal_component_agrees_with_svd(mode):
    features = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for one, mine in zip(features, principal_component(features, mode), strict=True):
        x = one.reshape(6, 35).T if mode == "spatial" else one.reshape(6, 35)
        x = x - x.mean(0)
        _, _, v = torch.linalg.svd(x, full_matrices=False)
        expected = x @ v[0] if mode == "spatial" else v[0]
        expected = expected * torch.sign((expected * mine.flatten()).sum())
        torch.testing.assert_close(mine.flatten(), expected, atol=1e-9, rtol=0)


def test_shallow_feature_cam_worked_example():
    close(shallow_feature_cam(C, principal_component(A)), [[[0.0664, 0], [0.0625, 1]]])


@pytest.mark.parametrize("combine", ["gated", "additive", "literal"])
def test_shallow_feature_cam_ignores_the_sign_of_the_component(combine):
    generator = torch.Generator().manual_seed(0)
    # Many, so that some hardly correlate with their map and have a frame half above the mean.
    cam, component = torch.rand(2000, 8, 8, generator=generator), torch.randn(2000, 8, 8, generator=generator)
    a = shallow_feature_cam(cam, component, combine)
    torch.testing.assert_close(a, shallow_feature_cam(cam, -component, combine), atol=1e-5, rtol=0)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_gated_map_lies_between_half_the_map_and_the_map(seed):
    generator = torch.Generator().manual_seed(seed)
    cam = min_max(torch.rand(2, 6, 6, generator=generator))
    result = shallow_feature_cam(cam, torch.randn(2, 6, 6, generator=generator))
    assert (result >= cam / 2 - 1e-6).all() and (result <= cam + 1e-6).all()
    assert ((result == 0) == (cam == 0)).all()


def test_constant_component_leaves_the_map_alone():
    cam = torch.rand(1, 4, 4)
    torch.testing.assert_close(shallow_feature_cam(cam, torch.full((1, 4, 4), 3.0)), cam)


def test_uncorrelated_component_is_oriented_by_a_dark_border():
    component = -torch.ones(1, 6, 6)
    component[:, 1:-1, 1:-1] = 1
    gated = shallow_feature_cam(torch.full((1, 6, 6), 0.5), -component)  # a constant map correlates with nothing
    assert gated[0, 2, 2] > gated[0, 0, 0]


def test_stages_have_the_geometry_of_the_paper():
    for backbone, channels in (("resnet34", (64, 128)), ("resnet50", (256, 512))):
        model = slice_classifier(backbone)
        shapes = []
        for name in ("layer1", "layer2"):
            getattr(model, name).register_forward_hook(lambda m, i, o, to=shapes: to.append(tuple(o.shape[1:])))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 1, 384, 384))
        assert shapes == [(channels[0], 96, 96), (channels[1], 48, 48)]


class Small(nn.Module):
    def __init__(self, inplace=True):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace))
        self.two = nn.Sequential(nn.ReLU(inplace), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(inplace))
        self.head = nn.Linear(4, 2)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.head(self.two(self.one(x)).mean((2, 3)))


def reference_maps(model, x):
    """LayerCAM by plain autograd on a copy of the computation."""
    a1 = model.one(x)
    a1.retain_grad()
    a2 = model.two(a1)
    a2.retain_grad()
    model.head(a2.mean((2, 3)))[:, 1].sum().backward()
    return layer_cam(a1, a1.grad), layer_cam(a2, a2.grad)


def test_extractor_agrees_with_plain_autograd_and_restores_everything():
    torch.manual_seed(0)
    model, x = Small(inplace=True), torch.randn(3, 1, 9, 9)
    plain = Small(inplace=False)
    plain.load_state_dict(model.state_dict())
    expected = reference_maps(plain.eval(), x)
    model.train()
    frozen = model.head.weight.requires_grad_(False)
    with torch.no_grad(), CAMExtractor(model, ["one", model.two]) as extractor:
        logits, maps = extractor(x)
    torch.testing.assert_close(maps["one"], expected[0].detach())
    torch.testing.assert_close(maps["two"], expected[1].detach())
    assert list(maps) == ["one", "two"] and not logits.requires_grad
    assert all(m.training for m in model.modules())
    assert all(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))
    assert not frozen.requires_grad and model.head.bias.requires_grad
    assert not any(m._forward_hooks for m in model.modules())


def test_extractor_is_independent_of_batch_mates_and_of_a_constant_on_all_logits():
    torch.manual_seed(0)
    model, x = Small(), torch.randn(4, 1, 9, 9)
    with CAMExtractor(model, ["one"], "grad_cam") as extractor:
        together = extractor(x)[1]["one"]
        alone = torch.cat([extractor(one[None])[1]["one"] for one in x])
        with torch.no_grad():
            model.head.bias += 5
        shifted = extractor(x)[1]["one"]
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(together, shifted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("method", "reference"), [("grad_cam", GradCAM), ("grad_cam++", GradCAMpp)])
def test_extractor_agrees_with_monai(method, reference):
    torch.manual_seed(0)
    model, x = Small(inplace=False).eval(), torch.randn(3, 1, 9, 9)
    # One image at a time and scaled: MONAI's Grad-CAM++ carries a factor exp(score) and takes no batches.
    expected = [reference(model, target_layers="two").compute_map(one[None], class_idx=1)[0] for one in x]
    with CAMExtractor(model, ["two"], method) as extractor:
        maps = extractor(x)[1]["two"]
    torch.testing.assert_close(min_max(maps), min_max(torch.cat(expected)), atol=1e-4, rtol=0)


def test_grad_cam_plus_plus_of_zero_gradients_is_zero():
    assert grad_cam_plus_plus(A, torch.zeros_like(G)).eq(0).all()


def test_extractor_works_on_other_networks_and_in_3d():
    model = DenseNet121(spatial_dims=3, in_channels=1, out_channels=2)
    with CAMExtractor(model, ["features.denseblock1"]) as extractor:
        _, maps = extractor(torch.randn(1, 1, 32, 32, 32))
    assert maps["features.denseblock1"].shape == (1, 8, 8, 8)


def test_extractor_errors_are_clear():
    model = Small()
    with pytest.raises(ValueError, match=r"layer 'three' is not in Small.*one, two"):
        CAMExtractor(model, ["three"])
    with pytest.raises(ValueError, match="method 'cam3' is unknown"):
        CAMExtractor(model, ["one"], "cam3")
    with pytest.raises(ValueError, match="'unused' was not run"), CAMExtractor(model, ["unused"]) as extractor:
        extractor(torch.randn(1, 1, 9, 9))
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="'with' block"):
        CAMExtractor(model, ["one"])(torch.randn(1, 1, 9, 9))
