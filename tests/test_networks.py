"""Classifiers, ensembles, weight files."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import pickle

import pytest
import torch
from conftest import segmenter_file

from ichseg import defaults
from ichseg.devices import pick_device, place
from ichseg.errors import IchsegError
from ichseg.experiments import EXPERIMENTS
from ichseg.inference import PrecisionInferer, SliceScorer
from ichseg.metrics import localization
from ichseg.networks import (
    BACKBONES,
    PIPELINES,
    ClassifierEnsemble,
    ClassifierSettings,
    SegmenterSettings,
    cam_layers,
    classifiers,
    load_ensemble,
    load_weights,
    read_checkpoint,
    read_settings,
    save_weights,
    segmenter,
    segmenter_settings,
    slice_classifier,
    stages,
)
from ichseg.presets import PRESETS
from ichseg.synthetic.implants.benchmark import FAMILIES
from ichseg.training import GraphedInferer


@pytest.mark.parametrize(("backbone", "parameters"), [("resnet34", 21_280_322), ("resnet50", 23_509_698)])
def test_classifiers_have_the_stated_size(backbone, parameters):
    assert sum(p.numel() for p in slice_classifier(backbone).parameters()) == parameters
    assert cam_layers(backbone) == ("layer1", "layer2")


def test_the_command_line_offers_every_backbone():
    assert tuple(classifiers._BACKBONES) == BACKBONES == defaults.BACKBONES
    assert tuple(EXPERIMENTS) == defaults.EXPERIMENTS and tuple(PRESETS) == defaults.PRESETS
    assert (
        tuple(FAMILIES) == defaults.IMPLANT_FAMILIES and tuple(localization.CONNECTIVITIES) == defaults.CONNECTIVITIES
    )
    assert sorted(a for names in PIPELINES.values() for a in names) == sorted(defaults.ARCHITECTURES)


def test_stages_run_from_the_shallowest():
    assert stages("vgg16", 3) == ["features.9", "features.16", "features.23"]
    for backbone in BACKBONES:
        assert tuple(stages(backbone)[:2]) == cam_layers(backbone)


def test_segmenters_have_the_stated_size():
    assert sum(p.numel() for p in segmenter("paper").parameters()) == 31_112_130
    assert sum(p.numel() for p in segmenter("small").parameters()) < 2e6
    for architecture in ("small", "paper"):
        with torch.no_grad():
            assert segmenter(architecture).eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(IchsegError, match="architecture 'huge' is unknown; choose one of context, lite, small, paper"):
        segmenter("huge")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": "abc"}, "size must be a whole number, not abc"),
        ({"threshold": "x"}, "threshold must be a number, not x"),
        ({"flip": "maybe"}, "flip must be true or false, not maybe"),
        ({"members": 1.5}, "members must be a whole number"),
        ({"min_volume_ml": True}, "min_volume_ml must be a number"),
        ({"fusion_weight": -3}, "fusion_weight must be at least 0, not -3"),
        ({"suspicious_share": 2}, "suspicious_share must be between 0 and 1, not 2"),
        ({"score_slope": math.nan}, "score_slope must be a number, not nan"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(values, said):
    with pytest.raises(IchsegError, match=said):
        SegmenterSettings(**{"architecture": "small", "size": 64, "window_level": 50, "window_width": 100, **values})


def test_settings_that_a_later_version_knows(tmp_path):
    known = {"backbone": "resnet34", "size": 64, "window_level": 50, "window_width": 130}
    save_weights(tmp_path / "later.pt", {}, {**known, "novel": 1})
    with pytest.raises(IchsegError, match=r"later\.pt: unknown setting novel; a later version of ichseg"):
        read_settings(tmp_path / "later.pt", ClassifierSettings)
    with pytest.raises(IchsegError, match=r"later\.pt: not the weights of a segmenter: no architecture among"):
        read_settings(tmp_path / "later.pt", SegmenterSettings)


def test_networks_of_your_own_need_no_settings_in_their_file():
    given = {
        "size": 64,
        "window_level": 50,
        "window_width": 100,
        "threshold": 0.4,
        "min_volume_ml": 0,
        "fill_holes_mm2": 0,
    }
    own = segmenter_settings("absent.pt", "inference_paper.yaml", **given)
    assert (own.size, own.threshold, own.pipeline) == (64, 0.4, "inference_paper.yaml")
    with pytest.raises(IchsegError, match=r"absent\.pt: weight file not found"):
        segmenter_settings("absent.pt", "inference_paper.yaml", **{**given, "threshold": None})


def test_unknown_backbone():
    with pytest.raises(IchsegError, match="backbone 'alexnet' is unknown; choose one of resnet34, resnet50"):
        slice_classifier("alexnet")


def test_ensemble_is_the_mean_softmax(tmp_path):
    torch.manual_seed(0)
    network = slice_classifier("resnet34").eval()
    torch.save(network.state_dict(), tmp_path / "a.pt")
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "b.pt")  # a training checkpoint will do
    x = torch.rand(2, 1, 64, 64)
    ensemble = load_ensemble({"resnet34": tmp_path / "a.pt"})
    with torch.no_grad():
        torch.testing.assert_close(ensemble(x), network(x).softmax(1))
        twice = ClassifierEnsemble([network, load_weights(slice_classifier("resnet34"), tmp_path / "b.pt").eval()])
        torch.testing.assert_close(twice(x), network(x).softmax(1))
        volume = x[:, 0].permute(1, 2, 0)[None, None]
        torch.testing.assert_close(SliceScorer(1)(volume, ensemble)[0], network(x).softmax(1)[:, 1])
    assert ensemble.cam_layers == [["layer1", "layer2"]]


def test_weight_files_that_do_not_fit_are_named(tmp_path):
    torch.save(slice_classifier("resnet50").state_dict(), tmp_path / "50.pt")
    with pytest.raises(IchsegError, match=r"50\.pt: weights do not match ResNet"):
        load_weights(slice_classifier("resnet34"), tmp_path / "50.pt")
    with pytest.raises(IchsegError, match=r"absent\.pt: weight file not found"):
        load_weights(slice_classifier("resnet34"), tmp_path / "absent.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "50.pt").read_bytes()[:1000])
    with pytest.raises(IchsegError, match=r"cut\.pt: (damaged|not a) weight file"):
        load_weights(slice_classifier("resnet34"), tmp_path / "cut.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(IchsegError, match="expected a state dict"):
        load_weights(slice_classifier("resnet34"), tmp_path / "tensor.pt")


class Harmful:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_pickled_objects_are_never_loaded(tmp_path, capsys):
    with (tmp_path / "bad.pt").open("wb") as file:
        pickle.dump(Harmful(), file)
    with pytest.raises(IchsegError, match=r"bad\.pt"):
        load_weights(slice_classifier("resnet34"), tmp_path / "bad.pt")
    torch.save({"model": Harmful()}, tmp_path / "bad2.pt")
    with pytest.raises(IchsegError, match="pickled objects, which are never loaded"):
        load_weights(slice_classifier("resnet34"), tmp_path / "bad2.pt")
    assert "must never run" not in capsys.readouterr().out


def test_devices():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(IchsegError, match="device 'cuda:99' is not available"):
        pick_device("cuda:99")
    with pytest.raises(IchsegError, match="device 'tpu' is unknown"):
        pick_device("tpu")
    network = place(torch.nn.Conv2d(4, 4, 3), "cpu")
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


def test_precision_touches_the_forward_pass_only():
    network = torch.nn.Conv2d(1, 8, 3)
    seen = []
    network.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    x = torch.rand(1, 1, 8, 8)
    full, half = PrecisionInferer("fp32")(x, network), PrecisionInferer("bf16")(x, network)
    assert seen == [torch.float32, torch.bfloat16] and half.dtype == torch.float32
    torch.testing.assert_close(full, half, atol=0.02, rtol=0.02)
    with pytest.raises(IchsegError, match="precision 'fp8' is unknown"):
        PrecisionInferer("fp8")


def test_without_a_gpu_nothing_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda *a, **k: pytest.fail("recorded"))
    network, x = torch.nn.Conv2d(3, 3, 3).train(), torch.rand(2, 3, 8, 8)
    for precision in ("fp32", "bf16"):
        there = GraphedInferer(precision)(x, network)
        assert there.requires_grad and torch.equal(there, PrecisionInferer(precision)(x, network))


def test_modules_that_moved_answer_to_their_old_names():
    with pytest.warns(DeprecationWarning, match=r"ichseg\.resources is now ichseg\.bundle"):
        old = importlib.import_module("ichseg.resources")
    assert old.bundle_folder is importlib.import_module("ichseg.bundle").bundle_folder
    with pytest.warns(DeprecationWarning, match="is now"):
        assert importlib.import_module("ichseg.data.phantom").phantom_scan
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ichseg.data.nothing")


def test_settings_of_a_file_that_was_replaced_are_read_anew(tmp_path):
    path = segmenter_file(tmp_path / "own.pt", size=64)
    first = read_settings(path, SegmenterSettings)
    segmenter_file(path, size=96)
    assert (first.size, read_settings(path, SegmenterSettings).size) == (64, 96)
    state = path.stat()
    save_weights(path, read_checkpoint(path), dataclasses.replace(first, size=32))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read_settings(path, SegmenterSettings).size == 32
    path.unlink()
    with pytest.raises(IchsegError, match=r"own\.pt: weight file not found"):
        read_settings(path, SegmenterSettings)
