"""What makes a training the same training: an interrupted one goes on with the same settings only."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.handlers import StatsHandler
from torch import nn

from ichseg.bundle import NONE, BundleParts, config_values, resource_folder
from ichseg.data import load_datalist, scans_hash
from ichseg.data.datalist import TABLE, images_hash
from ichseg.errors import IchsegError
from ichseg.provenance import content_mark, difference
from ichseg.training import FitSettings, fit, run_settings, settings_of
from ichseg.training.same_run import LENGTH, OF_THE_MACHINE, PLACES, SEVERAL_PROCESSES, WATCHING

TRAININGS = sorted(
    (file.parts[-3], file.name)
    for file in resource_folder("bundles").glob("*/configs/*train*.yaml")
    if file.name != SEVERAL_PROCESSES
)


def changed(bundle, config, **values):
    parser = ConfigParser(config_values(bundle, config))
    parser.update(values)
    return settings_of(config_values(bundle, config), parser.config)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"weight_decay": 0.5}, "weight_decay"),
        ({"weight_decay": NONE}, "weight_decay"),
        ({"learning_rate": "$1e-3"}, "learning_rate"),
        ({"inputs": ["size"]}, "inputs"),
        ({"train::prepare::augment::noise": 0}, "train::prepare::augment::noise"),
        ({"preprocessing::transforms::0::keys": "other"}, "preprocessing::transforms::0::keys"),
        ({"scheduler": {"_target_": "torch.optim.lr_scheduler.ConstantLR"}}, "scheduler::_target_"),
        ({"loss": nn.BCELoss()}, "loss"),
        ({"preprocessing": None}, "preprocessing"),
        ({"packed_as": 0}, "packed_as"),
        ({"train::handlers::1::norm": 0.01}, "train::handlers::1::norm"),
        ({"train::packed::data": "$@scans[:3]"}, "train::packed::data"),
        ({"validate::packed::data": "$@scans[1:]"}, "validate::packed::data"),
    ],
)
def test_what_was_changed_is_named(values, path):
    usual, other = (changed("ich_segmentation", "train_recommended.yaml", **one) for one in ({}, values))
    assert path in difference(usual, other) and path in difference(other, usual)
    assert difference(other, changed("ich_segmentation", "train_recommended.yaml", **values)) is None


@pytest.mark.parametrize("path", ["optimizer::weight_decay", "preprocessing::transforms::4", "train::handlers::1"])
@pytest.mark.parametrize("overlay", [None, SEVERAL_PROCESSES])
def test_what_was_taken_out_is_named(path, overlay):
    own = config_values("ich_segmentation", "train_recommended.yaml")
    content, (*names, last) = config_values("ich_segmentation", "train_recommended.yaml"), path.split("::")
    part = content
    for name in names:
        part = part[int(name) if isinstance(part, list) else name]
    part.pop(int(last) if isinstance(part, list) else last)
    laid = None if overlay is None else config_values("ich_segmentation", overlay)
    assert path in difference(settings_of(own, own, (), laid), settings_of(own, content, (), laid))


def test_folds_are_the_same_however_they_are_written():
    usual = changed("ich_segmentation", "train_recommended.yaml", val_folds=[3], train_folds=[0, 1, 2])
    assert (
        difference(usual, changed("ich_segmentation", "train_recommended.yaml", val_folds=3, train_folds="0-2")) is None
    )
    assert (
        difference(usual, changed("ich_segmentation", "train_recommended.yaml", val_folds=[3], train_folds="2,1,0"))
        is None
    )


def test_a_handler_that_watches_may_stand_anywhere():
    usual = changed("ich_segmentation", "train_recommended.yaml")
    own = config_values("ich_segmentation", "train_recommended.yaml")["train"]["handlers"]
    for watching in ({"_target_": "StatsHandler"}, StatsHandler()):
        other = changed("ich_segmentation", "train_recommended.yaml", **{"train::handlers": [watching, *own]})
        assert difference(usual, other) is None
    fewer = changed("ich_segmentation", "train_recommended.yaml", **{"train::handlers": own[1:]})
    assert (difference(usual, fewer) is None) == (own[0]["_target_"].split(".")[-1] in WATCHING)


def test_a_word_is_no_file(tmp_path, monkeypatch):
    """What lies in the current folder under the name of an architecture is nothing of the training's."""
    usual = changed("ich_segmentation", "train_recommended.yaml")
    for name in ("lite", "data", "fp32"):
        (tmp_path / name).write_text("something else")
    monkeypatch.chdir(tmp_path)
    assert difference(usual, changed("ich_segmentation", "train_recommended.yaml")) is None


def test_a_file_that_a_part_names_counts_by_its_content(tmp_path):
    for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    path = "train::prepare::teacher::weights"
    a, b, c = (
        changed("ich_segmentation", "train_recommended.yaml", **{path: str(tmp_path / f"{name}.pt")}) for name in "abc"
    )
    assert difference(a, b) is None and path in difference(a, c)


def test_how_it_runs_and_what_watches_does_not_count():
    usual = changed("ich_segmentation", "train_recommended.yaml")
    watching = {"_target_": "monai.handlers.MLFlowHandler", "tracking_uri": "here"}
    handlers = [*config_values("ich_segmentation", "train_recommended.yaml")["train"]["handlers"], watching]
    others = {
        "num_workers": 7, "bundle_root": "elsewhere", "output_dir": Path("run"), "init_weights": NONE, "device": 1,
        "train::handlers": handlers, "train::handlers::2::desc": "X-Net", "initialize": ["$print(1)"],
        "save_execute_config": "$'" + "x" * 300 + "'", "_meta_": {"name": "x"},
    }  # fmt: skip
    assert difference(usual, changed("ich_segmentation", "train_recommended.yaml", **others)) is None


def test_a_file_counts_by_its_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (changed("ich_segmentation", "train_paper.yaml", init_weights=str(tmp_path / name)) for name in "abc")
    assert difference(a, b) is None and "init_weights" in difference(a, c)


@pytest.mark.parametrize(("bundle", "config"), TRAININGS)
def test_every_training_compares_all_its_settings(bundle, config, phantoms, monkeypatch):
    """As the config itself does, with the values that stand around it."""
    found = config_values(bundle, config).get("made_of")
    place = "made_of"
    if found is None:
        handlers = config_values(bundle, config)["train"]["handlers"]
        (number,) = (n for n, one in enumerate(handlers) if one["_target_"].endswith("TrainingCheckpoint"))
        place, found = f"train::handlers::{number}::made_of", handlers[number]["made_of"]
    assert (found["bundle"], found["config"]) == (bundle, config)
    start = str(resource_folder("bundles") / "ich_segmentation" / "models" / "model.pt")
    hashes = dict.fromkeys((f"{place}::{key}" for key in found if key not in ("_target_", "bundle", "config")), "x")

    def made(**values):
        return BundleParts(bundle, config, {"dataset_dir": str(phantoms), **hashes, **values})[place]

    usual = made()
    assert difference(usual, made(epochs=usual.get("epochs", 3), device_name="cuda", output_dir="there")) is None
    plain = {
        key for key, value in config_values(bundle, config).items()
        if isinstance(value, bool | int | float) and key not in (*OF_THE_MACHINE, *LENGTH)
    }  # fmt: skip
    assert {"seed", "learning_rate", "weight_decay", "batch_size"} <= plain
    for key in plain:
        assert difference(usual, made(**{key: 77})).startswith(f"{key} ")
    assert "optimizer::_target_" in difference(usual, made(**{"optimizer::_target_": "torch.optim.Adagrad"}))
    if "init_weights" in usual:
        assert "init_weights" in difference(usual, made(init_weights=start))
    assert not set(usual) & {*PLACES, *OF_THE_MACHINE}


@pytest.mark.parametrize(
    ("bundle", "config"),
    [("ich_slice_classification", "train.yaml"), ("ich_segmentation", "train_paper.yaml"),
     ("ich_segmentation", "train_recommended.yaml")],
)  # fmt: skip
def test_several_processes_train_the_same(bundle, config):
    own, overlay = config_values(bundle, config), config_values(bundle, SEVERAL_PROCESSES)
    parser = ConfigParser(config_values(bundle, config))
    parser.update(overlay)
    assert difference(settings_of(own, own), settings_of(own, parser.config, (), overlay)) is None


def test_files_are_told_apart_by_what_they_hold(tmp_path):
    one, other = b"a" * 5000, b"a" * 4999 + b"b"
    files = {"one": one, "other": other, "longer": one + b"a"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    (tmp_path / "again.gz").write_bytes(gzip.compress(one, 1, mtime=7))
    marks = {file.name: content_mark(file) for file in tmp_path.iterdir()}
    assert marks["again.gz"] == marks["one.gz"]
    assert len(set(marks.values())) == len(files), "CRC-32 and size, of packed files too"
    assert marks["one"] == marks["one.gz"] != marks["other"] and marks["longer"] not in (marks["one"], marks["other"])
    assert content_mark(tmp_path / "none") == "" != content_mark(tmp_path)


def test_files_of_several_parts_are_told_apart(tmp_path):
    """bgzip's last part is empty in every file; and each of its parts says its size in an extra field."""
    one, other = bytes(5000), bytes(2500) + b"b" + bytes(2499)
    marks = []
    for number, content in enumerate((one, other, one)):
        parts = [gzip.compress(part, mtime=number) for part in (content[:3000], content[3000:], b"")]
        (tmp_path / f"{number}.gz").write_bytes(b"".join(parts))
        marks.append(content_mark(tmp_path / f"{number}.gz"))
        in_parts = b"".join(part[:3] + b"\x04" + part[4:10] + b"\x02\0xx" + part[10:] for part in parts[:2])
        (tmp_path / f"x{number}.gz").write_bytes(in_parts)
        assert content_mark(tmp_path / f"x{number}.gz") == marks[-1]
    whole = tmp_path / "whole.gz"
    whole.write_bytes(gzip.compress(one))
    assert marks[0] == marks[2] == content_mark(whole) != marks[1]
    (tmp_path / "0.gz").write_bytes((tmp_path / "x0.gz").read_bytes()[:-30])
    assert len(content_mark(tmp_path / "0.gz")) == 64, "cut off: its bytes count"


def test_a_scan_rewritten_under_its_name_is_another(phantoms, tmp_path):
    scans = load_datalist(phantoms / "datalist.json")
    (tmp_path / "images").mkdir()
    moved = []
    for scan in scans:
        image = tmp_path / "images" / Path(scan["image"]).name
        image.write_bytes(Path(scan["image"]).read_bytes())
        moved.append({**scan, "image": str(image)})
    assert scans_hash(moved) == scans_hash(scans)
    Path(moved[0]["image"]).write_bytes(Path(moved[1]["image"]).read_bytes())
    assert scans_hash(moved) != scans_hash(scans)
    table = tmp_path / TABLE
    without = scans_hash(scans, tmp_path / "datalist.json")
    table.write_text("case,slice_index\n")
    assert scans_hash(scans, tmp_path / "datalist.json") != without


def test_where_a_training_is_started_does_not_count(phantoms, tmp_path, monkeypatch):
    scans = [
        {key: scan[key] for key in ("image", "slice_labels")} for scan in load_datalist(phantoms / "datalist.json")
    ]
    before = scans_hash(scans)
    (tmp_path / "another_file").write_text("here")
    monkeypatch.chdir(tmp_path)
    assert scans_hash(scans) == before


def test_the_images_of_a_datalist(phantoms, tmp_path):
    for file in ("datalist.json", TABLE, *(str(p.relative_to(phantoms)) for p in (phantoms / "images").iterdir()),
                 *(str(p.relative_to(phantoms)) for p in (phantoms / "labels").iterdir())):  # fmt: skip
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes((phantoms / file).read_bytes())
    before = images_hash(tmp_path / "datalist.json")
    assert before == images_hash(phantoms / "datalist.json")
    first, second, *_ = sorted((tmp_path / "images").iterdir())
    first.write_bytes(second.read_bytes())
    assert images_hash(tmp_path / "datalist.json") != before


def test_the_number_of_processes_counts(monkeypatch):
    made = [run_settings("hgi_sam", "train.yaml")]
    monkeypatch.setattr("ichseg.training.same_run.place_and_count", lambda: (0, 2))
    assert difference(*made, run_settings("hgi_sam", "train.yaml")) == "processes null, now 2"


def test_a_training_without_a_bundle_does_not_resume_another(tmp_path):
    batches = [{"image": torch.ones(2, 1, 4, 4), "label": torch.ones(2)}]
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))

    def run(rate, epochs=2):
        loss = lambda out, batch: (out[:, 0] - batch["label"]).square().mean()  # noqa: E731
        optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.5)
        return fit(network, loss, batches, batches, tmp_path, FitSettings("x", 4, 50, 100), epochs, optimizer,
                   torch.device("cpu"))  # fmt: skip

    assert run(np.float64(0.1)) == run(0.1, 3)  # a number of NumPy is none that makes the file unsafe to read
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 4
    with pytest.raises(Exception) as caught:
        run(0.2, 4)
    error = caught.value
    while error is not None and not isinstance(error, IchsegError):
        error = error.__cause__ or error.__context__
    assert "groups" in str(error) and "choose another output folder" in str(error)
