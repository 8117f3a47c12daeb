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
    METHODS,
    CAMExtractor,
    class_activation_map,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    min_max,
    oriented,
    principal_component,
    score_cam,
    shallow_feature_cam,
    smooth_grad_cam_plus_plus,
)
from ichseg.cam.component import leading_eigenvector
from ichseg.networks import BACKBONES, cam_layers, deepest_layer, slice_classifier

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


def test_principal_component_worked_example_in_full():
    scores = principal_component(A)
    centered = A - A.mean((2, 3), keepdim=True)
    assert float(scores.square().sum() / centered.square().sum()) == pytest.approx(0.6969, abs=1e-4)
    shown = oriented(scores, C)
    correlation = torch.corrcoef(torch.stack([shown.flatten(), C.flatten()]))[0, 1]
    assert float(correlation) == pytest.approx(0.7478, abs=1e-4)
    close(min_max(shown), [[[0.0621, 0.5939], [0, 1]]])


def test_monais_own_normalizer_turns_maps_upside_down_and_ours_does_not():
    from monai.visualize import default_normalizer

    values = torch.tensor([[[0.0, 1, 2, 4]]])
    assert default_normalizer(values[None]).flatten().tolist() == [1, 0.75, 0.5, 0]
    assert min_max(values).flatten().tolist() == [0, 0.25, 0.5, 1]


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


def test_border_rule_does_not_look_at_the_map():
    component = torch.rand(20, 6, 6) - 0.5
    for cam in (component, -component):
        torch.testing.assert_close(oriented(component, cam, "border"), oriented(-component, cam, "border"))
    assert (oriented(component, component, "border") != oriented(component, component)).any()
    with pytest.raises(ValueError, match="sign must be one of cam, border, not 'up'"):
        oriented(component, component, "up")


def test_readings_of_the_printed_combination():
    cam, gate = torch.tensor([[[0.0, 0.5], [1.0, 0.2]]]), torch.tensor([[[0.0, 0.5], [1.0, 1.0]]])
    close(shallow_feature_cam(cam, gate, "gated"), cam * (1 + gate) / 2)
    close(shallow_feature_cam(cam, gate, "additive"), (cam + gate) / 2)
    close(shallow_feature_cam(cam, gate, "literal"), (2 * cam + gate) / 2)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["spatial", "channel"]), st.booleans())
def test_component_and_maps_stay_finite(seed, mode, flat):
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(2, 5, 4, 6, generator=generator)
    if flat:
        features = torch.full_like(features, 2.0)
    component = principal_component(features, mode)
    assert component.isfinite().all()
    torch.testing.assert_close(component.norm(dim=(1, 2)), principal_component(-features, mode).norm(dim=(1, 2)))
    cam = torch.zeros(2, 4, 6) if flat else min_max(torch.rand(2, 4, 6, generator=generator))
    for combine in ("gated", "additive", "literal"):
        result = shallow_feature_cam(cam, component, combine)
        assert result.isfinite().all() and (result >= 0).all()
        torch.testing.assert_close(result, shallow_feature_cam(cam, -component, combine), atol=1e-5, rtol=0)


def test_component_in_3d_is_that_of_the_unfolded_volume():
    features = torch.randn(2, 5, 3, 4, 6)
    for mode in ("spatial", "channel"):
        flat = principal_component(features.reshape(2, 5, 12, 6), mode).reshape(2, 3, 4, 6)
        torch.testing.assert_close(principal_component(features, mode), flat)
    cam = min_max(torch.rand(2, 3, 4, 6), 3)
    assert cam.amax(dim=(1, 2, 3)).tolist() == [1, 1]
    gated = shallow_feature_cam(cam, principal_component(features))
    assert (gated <= cam + 1e-6).all() and (gated >= cam / 2 - 1e-6).all()


# Channels and side of CAM layer 1 and 2 at 384 x 384, and trainable numbers.
GEOMETRY = {
    "resnet34": ((64, 96), (128, 48)),
    "resnet50": ((256, 96), (512, 48)),
    "densenet121": ((256, 96), (512, 48)),
    "densenet169": ((256, 96), (512, 48)),
    "vgg16": ((128, 96), (256, 48)),
    "vgg19": ((128, 96), (256, 48)),
    "efficientnet_lite0": ((24, 96), (40, 48)),
    "convnextv2_tiny": ((96, 96), (192, 48)),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stages_have_the_geometry_of_the_paper(backbone):
    model = slice_classifier(backbone).eval()
    outputs = {}
    for name in (*cam_layers(backbone), deepest_layer(backbone)):
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))
    with torch.no_grad():
        logits = model(torch.rand(1, 1, 384, 384))
    shapes = [tuple(outputs[name].shape[1:]) for name in cam_layers(backbone)]
    assert shapes == [(channels, side, side) for channels, side in GEOMETRY[backbone]]
    assert outputs[deepest_layer(backbone)].shape[-1] <= 24 and logits.shape == (1, 2)
    # Pooled and residual stages are rectified; the outer relu of LayerCAM matters for the others.
    rectified = all(outputs[name].min() >= 0 for name in cam_layers(backbone))
    assert rectified == backbone.startswith(("resnet", "vgg"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_maps_and_is_left_as_it_was(backbone):
    model = slice_classifier(backbone).train()
    images = torch.rand(2, 1, 64, 64)
    with CAMExtractor(model, cam_layers(backbone), "shallow_feature_cam") as extractor:
        _, maps = extractor(images)
        again = extractor(images)[1]
    assert [tuple(m.shape) for m in maps.values()] == [(2, 16, 16), (2, 8, 8)]
    for name, one in maps.items():
        assert one.isfinite().all() and one.min() >= 0 and one.max() <= 1
        torch.testing.assert_close(one, again[name])
    assert all(m.training for m in model.modules()) and not any(m._forward_hooks for m in model.modules())


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


def test_methods_without_gradients_or_contrast_give_zeros_not_nan():
    assert grad_cam_plus_plus(A, torch.zeros_like(G)).eq(0).all()
    assert smooth_grad_cam_plus_plus(A, torch.zeros(3, *G.shape)).eq(0).all()
    assert smooth_grad_cam_plus_plus(torch.zeros_like(A), torch.rand(3, *G.shape)).eq(0).all()
    with CAMExtractor(Constant(), ["one"], "score_cam") as extractor:
        assert extractor(torch.rand(2, 1, 6, 6))[1]["one"].eq(3).all()


class Constant(nn.Module):
    """A layer whose channels have no contrast: min-max scaling must not divide by zero."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 2, 1)
        nn.init.zeros_(self.one.weight)
        nn.init.constant_(self.one.bias, 3.0)

    def forward(self, x):
        return self.one(x).mean((2, 3))


def test_smooth_grad_cam_plus_plus_by_hand():
    activations = torch.tensor([[[[1.0, 2.0]]]])
    gradients = torch.tensor([[[[[1.0, -1.0]]]], [[[[3.0, 1.0]]]]])
    # mean g = (2, 0), mean g^2 = (5, 1), mean g^3 = (14, 0): sum of A g^3 = 14
    weight = 5 / (2 * 5 + 14) * 2 + 1 / (2 * 1 + 14) * 0
    close(smooth_grad_cam_plus_plus(activations, gradients), [[[weight, 2 * weight]]])
    close(smooth_grad_cam_plus_plus(A, G[None]), grad_cam_plus_plus(A, G))


def test_smooth_grad_cam_plus_plus_repeats_itself_and_is_grad_cam_plus_plus_without_noise():
    torch.manual_seed(0)
    model, x = Small(), torch.randn(3, 1, 9, 9)

    def maps(images=x, **options):
        with CAMExtractor(model, ["one"], **options) as extractor:
            return extractor(images)[1]["one"]

    noisy = maps(method="smooth_grad_cam++", seed=1)
    close(noisy, maps(method="smooth_grad_cam++", seed=1), atol=0)
    close(noisy[1:2], maps(x[1:2], method="smooth_grad_cam++", seed=1), atol=1e-5)
    assert (noisy - maps(method="smooth_grad_cam++", seed=2)).abs().max() > 1e-4
    close(maps(method="smooth_grad_cam++", noise=0), maps(method="grad_cam++"), atol=1e-5)
    with pytest.raises(ValueError, match="samples >= 1"):
        maps(method="smooth_grad_cam++", samples=0)


def test_score_cam_by_hand():
    close(score_cam(A, torch.zeros(1, 2)), A.mean(1))
    close(score_cam(A, torch.tensor([[0.0, -100.0]])), A[:, 0])
    torch.manual_seed(0)
    model, x = Small().eval(), torch.rand(2, 1, 9, 9)
    with torch.no_grad():
        activations = model.one(x)
        expected = []
        for image, channels in zip(x, activations, strict=True):
            masks = nn.functional.interpolate(min_max(channels)[:, None], (9, 9), mode="bilinear")
            gain = model(image[None] * masks)[:, 1] - model(image[None])[:, 1]  # any baseline gives the same softmax
            expected.append((gain.softmax(0)[:, None, None] * channels).sum(0).relu())
    with CAMExtractor(model, ["one"], "score_cam", batch_size=3) as extractor:
        close(extractor(x)[1]["one"], torch.stack(expected), atol=1e-5)


def test_cam_uses_the_linear_layer_behind_the_mean():
    close(class_activation_map(A, torch.tensor([2.0, -1.0])), 2 * A[:, 0] - A[:, 1])
    torch.manual_seed(0)
    model, x = Small().eval(), torch.rand(2, 1, 9, 9)
    with CAMExtractor(model, ["two"], "cam") as extractor:
        logits, maps = extractor(x)
    # The mean of the map is the logit without its bias.
    close(maps["two"].mean((1, 2)), logits[:, 1] - model.head.bias[1].detach(), atol=1e-5)
    with pytest.raises(ValueError, match="spatial mean of layer 'one'"), CAMExtractor(model, ["one"], "cam") as wrong:
        wrong(x)


@pytest.mark.parametrize("method", ["score_cam", "smooth_grad_cam++", "cam", "grad_cam"])
def test_methods_explain_the_class_asked_for(method):
    torch.manual_seed(1)
    model, x = Small().eval(), torch.randn(6, 1, 9, 9) * 3
    with torch.no_grad():  # so that it predicts either class
        model.head.bias[0] += (model(x)[:, 1] - model(x)[:, 0]).mean()
    found = {}
    for target in (0, 1, "predicted"):
        with CAMExtractor(model, ["two"], method, target) as extractor:
            logits, maps = extractor(x)
            found[target] = maps["two"]
    assert (found[0] - found[1]).abs().max() > 1e-3 and 0 < int(logits.argmax(1).sum()) < 6
    chosen = logits.argmax(1)[:, None, None]
    close(found["predicted"], torch.where(chosen == 1, found[1], found[0]), atol=1e-6)


def test_gradients_survive_a_callers_inference_mode():
    model, x = Small().eval(), torch.randn(2, 1, 9, 9)
    with CAMExtractor(model, ["one"]) as extractor:
        expected = extractor(x)[1]["one"]
        with torch.inference_mode():
            close(extractor(x * 1)[1]["one"], expected, atol=1e-6)


def test_what_is_no_number_is_said():
    model = Small()
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match="logits are not finite"), CAMExtractor(model, ["one"]) as extractor:
        extractor(torch.randn(1, 1, 9, 9))
    with pytest.raises(ValueError, match="features are not finite"):
        principal_component(torch.full((1, 2, 3, 3), torch.nan))
    broken = torch.tensor([[[0.0, torch.nan], [1, 2]]])
    assert min_max(broken).isnan().any() and not min_max(torch.ones(1, 2, 2)).isnan().any()


@pytest.mark.parametrize("mode", ["spatial", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_component(mode, dtype):
    same = torch.full((1, 7, 5, 5), 0.1, dtype=dtype)
    assert principal_component(same, mode).eq(0).all()
    if mode == "channel":
        repeated = torch.rand(1, 1, 5, 5, dtype=dtype).expand(1, 7, 5, 5)
        assert principal_component(repeated, mode).eq(0).all()


def test_exact_ties_are_broken_alike_for_both_signs():
    for component in (torch.tensor([[[1.0, -1], [1, -1]]]), torch.cat([torch.ones(1, 3, 6), -torch.ones(1, 3, 6)], 1)):
        cam = torch.full_like(component, 0.5)
        close(shallow_feature_cam(cam, component), shallow_feature_cam(cam, -component), atol=1e-6)


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_grad_cam_of_a_linear_network_scales_with_its_input(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    x = torch.rand(1, 1, 8, 8, generator=generator)
    with CAMExtractor(model, ["0"], "grad_cam") as extractor:
        torch.testing.assert_close(extractor(scale * x)[1]["0"], scale * extractor(x)[1]["0"], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "cam"])
def test_every_method_in_3d_under_no_grad(method):
    model = DenseNet121(spatial_dims=3, in_channels=1, out_channels=2, block_config=(2, 2), init_features=8)
    layers = ["features.denseblock1", "features.denseblock2"]
    with torch.no_grad(), CAMExtractor(model, layers, method) as extractor:
        _, maps = extractor(torch.rand(2, 1, 16, 16, 16))
    assert [tuple(m.shape) for m in maps.values()] == [(2, 4, 4, 4), (2, 2, 2, 2)]
    assert all(m.isfinite().all() for m in maps.values())


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
    with pytest.raises(ValueError, match="'score_cam' has no option samples"):
        CAMExtractor(model, ["one"], "score_cam", samples=2)
    with pytest.raises(ValueError, match="target 2 is not among"), CAMExtractor(model, ["one"], target=2) as extractor:
        extractor(torch.randn(1, 1, 9, 9))
    with pytest.raises(ValueError, match="must be a class index or 'predicted'"):
        CAMExtractor(model, ["one"], target="largest")
    with (
        pytest.raises(ValueError, match="no spatial dimensions"),
        CAMExtractor(model, ["head"]) as extractor,
    ):
        extractor(torch.randn(1, 1, 9, 9))
    with pytest.raises(ValueError, match="'with' block"):
        CAMExtractor(model, ["one"])(torch.randn(1, 1, 9, 9))


def test_the_leading_eigenvector_is_that_of_eigh():
    generator = torch.Generator().manual_seed(0)

    def spd(size, rank):
        x = torch.randn(2, size, rank, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, rank)
        return x @ x.transpose(1, 2)

    direction = torch.randn(1, 300, 1, generator=generator, dtype=torch.float64)
    cases = [spd(1, 1), spd(40, 60), spd(300, 12), spd(300, 400), torch.zeros(1, 300, 300).double()]
    cases += [direction @ direction.transpose(1, 2), torch.eye(300).double()[None]]
    for matrices in cases:
        found = leading_eigenvector(matrices)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(matrices)).double())
        largest = torch.linalg.eigvalsh(matrices)[:, -1]
        product = (matrices @ found[..., None])[..., 0]
        torch.testing.assert_close(product, largest[:, None] * found, rtol=0, atol=1e-10 * float(largest.max() + 1))
        assert torch.equal(found, leading_eigenvector(matrices))


def test_a_look_costs_no_backward_pass_until_maps_are_wanted(monkeypatch):
    network, x = slice_classifier("resnet34"), torch.rand(2, 1, 64, 64)
    passes = []
    gradient = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or gradient(*a, **k))
    with CAMExtractor(network, ["layer1", "layer2"]) as extractor:
        expected = extractor(x)
        assert len(passes) == 1  # one for both layers
        first, second = extractor.look(x), extractor.look(x.flip(0))
        assert len(passes) == 1 and torch.equal(first[0], expected[0])
        # In any order: each look keeps its own.
        torch.testing.assert_close(second[1]()["layer1"], expected[1]["layer1"].flip(0))
        torch.testing.assert_close(first[1](), expected[1])
        assert len(passes) == 3


def test_what_can_be_restored_is_restored():
    network = slice_classifier("resnet34").train()
    extractor = CAMExtractor(network, ["layer1"])
    with pytest.raises(RuntimeError, match="cannot be undone"), extractor:

        def fail():
            raise RuntimeError("cannot be undone")

        extractor._restore.append(fail)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert not network.layer1._forward_hooks
    assert principal_component(torch.zeros(0, 3, 4, 4)).shape == (0, 4, 4)
    with pytest.raises(ValueError, match="not finite"):
        principal_component(torch.full((1, 3, 4, 4), 1e30) * torch.rand(1, 3, 4, 4))
