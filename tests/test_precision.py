"""Lower precision is a switch, and what it changes is said."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from conftest import torch_threads
from monai.data import MetaTensor

from ichseg.errors import IchsegError
from ichseg.inference import PrecisionCheck, PrecisionInferer, SliceScorer
from ichseg.networks import slice_classifier
from ichseg.parallel import map_images
from ichseg.precision import full_precision, lower_type, warn_of_slow_bf16
from ichseg.transforms import ShallowFeatureCAM


def test_full_precision_overrules_and_ends():
    assert lower_type("fp32") is None and lower_type("bf16") == torch.bfloat16
    with pytest.raises(KeyError), full_precision():
        assert lower_type("bf16") is None
        raise KeyError
    assert lower_type("bf16") == torch.bfloat16
    for wrong in (PrecisionInferer, lambda name: ShallowFeatureCAM(torch.nn.Identity(), precision=name)):
        with pytest.raises(IchsegError, match="precision 'fp16' is unknown; use one of fp32, bf16"):
            wrong("fp16")


@pytest.fixture
def two_threads():
    with torch_threads(2):
        yield


def test_full_precision_holds_in_every_thread(two_threads):
    with full_precision():
        assert map_images(lambda _: lower_type("bf16"), range(4)) == [None] * 4
    assert map_images(lambda _: lower_type("bf16"), range(4)) == [torch.bfloat16] * 4


def test_maps_in_full_precision_are_those_of_fp32(two_threads):
    network, volume = slice_classifier("resnet34").eval(), torch.rand(1, 64, 64, 2)
    near = float(ShallowFeatureCAM(network)(volume)[1].mean())  # scored again in lower precision, not in full
    for gate in (0.0, near):
        full, lower = (ShallowFeatureCAM(network, gate=gate, precision=name) for name in ("fp32", "bf16"))
        expected = full(volume)[0][0]
        assert gate or not torch.equal(lower(volume)[0][0], expected)
        with full_precision():
            assert torch.equal(lower(volume)[0][0], expected)


def test_slices_near_the_gate_are_scored_in_full():
    network, volume = slice_classifier("resnet34").eval(), torch.rand(1, 64, 64, 3)
    exact = ShallowFeatureCAM(network)(volume)[1]

    def error(gate):
        return float((ShallowFeatureCAM(network, gate=gate, precision="bf16")(volume)[1] - exact).abs().max())

    near = float(exact.mean())  # random weights: nearly the same for all slices
    assert error(near) < 1e-6 < min(error(0.0), error(0.9))  # any slice passes 0, none passes 0.9


class Rounding(torch.nn.Module):
    """Scores that bfloat16 rounds: 1.001 becomes 1."""

    def forward(self, x):
        return torch.nn.functional.linear(x.flatten(1)[:, :1], torch.tensor([[0.0], [1.0]]))


def checked(tmp_path, precision="bf16", scans=3, values=(0.0, 1.001, 2.0, 2.0)):
    image = MetaTensor(torch.zeros(1, 4, 4, len(values)))
    image += torch.tensor(values)
    inferer, network = PrecisionInferer(precision, SliceScorer(2)), Rounding()
    gate = 1.0005

    def steps(item):
        positive = torch.as_tensor(item["pred"]) >= gate
        return {**item, "image_probability": item["pred"], "pred": positive.float().expand(1, 4, 4, -1).clone()}

    check = PrecisionCheck(precision, inferer, network, steps, scans=scans, gate=gate, output_dir=tmp_path)
    item = steps({"image": image, "pred": inferer(image[None], network)[0]})
    return check, item


def test_what_bf16_changed_is_measured_printed_and_kept(tmp_path, caplog):
    check, item = checked(tmp_path, scans=2)
    for _ in range(3):
        assert check(item) is item
    # fp32: slices 1, 2, 3; bf16 rounds 1.001 to 1, below the gate: 2 and 3. Dice 2 * 2 / 5, pooled over two scans.
    assert json.loads((tmp_path / "precision.json").read_text()) == {
        "precision": "bf16",
        "dice_to_fp32": 0.8,
        "scans": 2,
        "slices": 8,
        "slices_gated_otherwise": 2,
        "voxels": {"both": 64, "bf16": 64, "fp32": 96},
    }
    assert "Dice with the fp32 masks 0.8000, gating differs in 2 of 8 slices (2 scans compared)" in caplog.text


def test_nothing_to_compare_and_not_compared(tmp_path, caplog):
    for check, item in (checked(tmp_path, "fp32"), checked(tmp_path, values=(0.0, 0.1))):
        assert check(item) is item
    assert not list(tmp_path.iterdir()) and not caplog.records
    check, item = checked(tmp_path, scans=2, values=(0.0, 0.1))
    made, steps = [], check.steps
    check.steps = lambda one: made.append(1) or steps(one)
    for _ in range(20):
        check(item)
    assert len(made) == 6 and "the first 6 scans have no mask to compare" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check, item = checked(tmp_path, scans=0)
    assert check(item) is item and not list(tmp_path.iterdir())
    assert "effect on the masks not measured" in caplog.text


@pytest.mark.parametrize("supported", [True, False])
def test_emulated_bfloat16_is_told_once(supported, monkeypatch, caplog):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    warn_of_slow_bf16.cache_clear()
    for _ in range(2):
        PrecisionInferer("bf16")(torch.zeros(1, 1, 8, 8), torch.nn.Conv2d(1, 1, 1))
    assert caplog.text.count("no instructions for it") == (not supported)
    warn_of_slow_bf16.cache_clear()
