"""What is examined before it runs: the harmful is found, our own bundles and plain configs are not."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from ichseg.bundle import bundle_folder
from ichseg.check import check_path, doubts_of_expression, doubts_of_weights
from ichseg.cli import main
from ichseg.data import load_datalist
from ichseg.errors import IchsegError

HARMFUL = [
    "$__import__('os').system('id')",
    "$import os",
    "$from os import path",
    "$import torch.hub",
    "$open('/etc/passwd').read()",
    "$eval('1')",
    "$exec('1')",
    "$getattr(torch, 'o' + 's')",
    "$torch.os.system('id')",
    "$torch.load('x.pt')",
    "$torch.hub.load('a', 'b')",
    "$np.load('x', allow_pickle=True)",
    "$monai.transforms.io.array.os",
    "$().__class__.__base__.__subclasses__()",
    "$@network.__init__.__globals__",
    "$[c for c in (1).__class__.__mro__]",
    "$'{0.__class__}'.format(1)",
    "$globals()",
    "$os.environ",
    "$subprocess.run(['id'])",
    "$lambda x: breakpoint()",
    "$(x := __builtins__)",
    "$1 +",
    "$torch",
    "$[torch][0].x",
    "$(lambda: torch)().x",
    "$@t.serialization.os.system('id')",
    "$@imports::0.x",
    "$@::imports::0",
    "$__local_refs",
    "$[0 for exec in ()] or exec('1')",
    "$(lambda open: 0) and open('x', 'w')",
    "$(lambda torch: 0)(1)",
    "$'@f {exec(1)}'",
    "$monai.data.dataset.Path('x').touch()",
    "$torch.nn.modules.container.operator.attrgetter('a')",
    "$torch.from_file('x', shared=True, size=1)",
    "$np.lib.format.open_memmap('x', 'w+', 'u1', (3,))",
    "$np.ones(3).tofile('x')",
    "$np.testing",
    "$math.x",
    "$monai.utils.misc.save_obj({}, 'x')",
    "$monai.networks.utils.save_state(@net, 'x')",
    "$ichseg.io.write_text('x', 'y')",
    "$monai.data.NumpyReader(allow_pickle=True)",
    "$import math as eval",
    "$import torch; exec('1')",
    "$import monai.bundle",
    "$from monai.data.dataset import Path",
    "$(x for x in [1]).gi_frame.f_builtins['exec']('1')",
    "$(lambda: (yield))().gi_code.co_consts",
    "$type(@a).mro()",
    "$@file.replace('x')",
    "$list(map(@file.replace, ['x']))",
    "$@file.replace(*['x'])",
    "$@file.read_text()",
    "$@file.home() / '.bashrc'",
    "$@file.cwd()",
    "$@file.symlink_to('x')",
    "$@x.untyped_storage().from_file('x', True, 8)",
    "$monai.networks.nets.resnet50(pretrained=True)",
]
HARMLESS = [
    "$@bundle_root + '/models'",
    "$lambda epoch: max(1 - epoch / @epochs, 0) ** @power",
    "$[i for i in range(3) if i]",
    "$import torch",
    "$import numpy as np",
    "$from monai.handlers import from_engine",
    "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "$@evaluator.run()",
    "$@network.eval()",
    "$@a::b::0 and not @c",
    "$monai.handlers.from_engine(['pred', 'label'])",
    "$list(sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz')))",
    "$np.random.randint(3) + np.pi + math.sqrt(2)",
    "$torch.nn.functional.softmax(@x, dim=1).to(torch.float32) + torch.zeros(2)",
    "$monai.utils.CommonKeys.IMAGE",
    "$x(@a)",
    "$@dataset_dir.replace('a', 'b').split('/')[-1]",
    "$@file.parent / 'a' if @file.is_file() else None",
    "$import glob",
]
KNOWN = {"glob": {"glob"}, "math": {"math"}, "x": {"monai.handlers.from_engine"}, "ichseg": {"ichseg"}}


@pytest.mark.parametrize("text", HARMFUL)
def test_harmful_expressions(text):
    assert doubts_of_expression(text, known=KNOWN)


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_expressions(text):
    assert doubts_of_expression(text, known=KNOWN) == []


def found(tmp_path, content, *allow):
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(content))
    told: dict[str, str] = {}
    for finding in check_path(file, allow):
        told[finding.key] = f"{told.get(finding.key, '')}{finding.message}\n"
    return told


@pytest.mark.parametrize(
    ("entry", "key", "said"),
    [
        ({"_target_": "os.system", "command": "id"}, "_target_", "not on the list"),
        ({"_target_": "builtins.eval"}, "_target_", "not on the list"),
        ({"_target_": "torch.load", "f": "x"}, "_target_", "not on the list"),
        ({"_target_": "monai.bundle.scripts.download", "name": "x"}, "_target_", "not on the list"),
        ({"_target_": "monai.utils.run_cmd", "cmd_list": ["id"]}, "_target_", "is monai.utils.misc.run_cmd"),
        ({"_target_": "ichseg.networks.weights.torch.load", "f": "x"}, "_target_", "is torch.serialization.load"),
        ({"_target_": "ichseg.io.atomic.os.system"}, "_target_", "which is not on the list|does not exist"),
        ({"_target_": "monai.data.utils.pickle_operations", "data": {}}, "_target_", "not on the list"),
        ({"_target_": "$'os.system'"}, "_target_", "is an expression"),
        ({"_target_": "LoadImagedd", "keys": "image"}, "_target_", "not a MONAI component"),
        ({"_target_": "torch.nn.Liner", "in_features": 1}, "_target_", "did you mean 'Linear'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_feature": 1}, "out_feature", "mean 'out_features'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1}, "out_features", "missing; torch.nn.Linear requires it"),
        ({"_target_": "torch.nn.ReLU", "_disable_": True}, "_disable_", "did you mean '_disabled_'"),
        ({"_taget_": "torch.nn.ReLU"}, "_taget_", "special key"),
        ({"_target_": "@which"}, "_target_", "is a reference"),
        ({"_target_": "%configs/a.yaml::b"}, "_target_", "is a reference"),
        ({"_target_": "torch.nn.Identity", "_mode_": "debug"}, "_mode_", "must be one of default, callable"),
        ({"_target_": "ichseg.io.write_text", "path": "x", "text": ""}, "_target_", "is ichseg.io.atomic.write_text"),
        ({"_target_": "monai.networks.utils.save_state", "src": 1, "path": "x"}, "_target_", "not on the list"),
        ({"_target_": "PersistentDataset", "data": [], "transform": 1, "cache_dir": "x"}, "_target_", "not on the li"),
        ({"_target_": "NumpyReader", "allow_pickle": True}, "allow_pickle", "lets a loader run code"),
        ({"_target_": "PerceptualLoss", "spatial_dims": 2}, "_target_", "which is not on the list"),
        ({"_target_": "DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "pretrained": True},
         "pretrained", "fetch weights"),
        ({"a::_target_": "os.system"}, "a::_target_", "not on the list"),
        ({"a'] or exec('1": 1}, "a'] or exec('1", "contains characters that are not allowed"),
        ({"x": "@imports::0"}, "x", "refers to an import"),
        ({"x": "$import torch"}, "x", "imports a module outside"),
    ],
)  # fmt: skip
def test_targets(tmp_path, entry, key, said):
    told = found(tmp_path, {"x": {"y": [entry]}})
    assert re.search(said, told[f"x::y::0::{key}"])


def test_references_macros_and_files(tmp_path):
    told = found(tmp_path, {
        "a": {"b": [1, 2]}, "good": "@a::b::1", "old": "@a#b#0", "bad": "@a::c", "gone": "$@nowhere + 1",
        "out": "%../../secret.json::a", "lost": "%other.yaml::a", "weights": "$@bundle_root + '/models/none.pt'",
        "bundle_root": ".", "own": {"_target_": "my_package.Thing"},
    })  # fmt: skip
    assert set(told) == {"bad", "gone", "out", "lost", "weights", "own::_target_"}
    assert "@a::c is not in this config" in told["bad"] and "outside the bundle" in told["out"]
    assert "models/none.pt" in told["weights"]
    told = found(tmp_path, {"own": {"_target_": "my_package.Thing"}}, "my_package")
    assert "there is no package 'my_package'" in told["own::_target_"]


def test_own_bundles_are_clean():
    assert check_path(bundle_folder("ich_segmentation")) == []
    assert check_path(bundle_folder("ich_slice_classification")) == []
    assert check_path(bundle_folder("hgi_sam") / "configs" / "train.yaml") == []
    assert check_path(bundle_folder("resnet_lstm") / "configs" / "train.yaml") == []
    assert check_path(bundle_folder("ich_pseudo_segmentation")) == []


def test_a_tampered_bundle(tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(bundle_folder("ich_segmentation"), bundle)
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text() + "\nextra: \"$__import__('os').system('touch pwned')\"\n")
    torch.save({"a": Evil()}, bundle / "models" / "model.pt")
    (bundle / "LICENSE").unlink()
    assert main(["check", str(bundle)]) == 1
    text = capsys.readouterr().out
    assert f"{config}: extra: expression uses '__import__'" in text
    assert f"{bundle / 'models' / 'model.pt'}: contains a pickled object: posix.system" in text
    assert f"{bundle / 'LICENSE'}: file not found" in text
    assert not (tmp_path / "pwned").exists() and len(text.splitlines()) == 4


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("configs/inference.yaml", {"training": [], "run": ["$exec('1')"]}, "run::0"),
        ("configs/sub/more.yaml", {"run": "$exec('1')"}, "run"),
        ("docs/more.json", {"run": "$exec('1')"}, "run"),
        ("configs/metadata.json", {"version": "1", "evil": "$exec('1')"}, "evil"),
        ("data/datalist.json", {"training": [{"case": "a", "image": "$exec('1')"}]}, "training::0::image"),
    ],
)
def test_no_file_of_a_bundle_is_passed_by(tmp_path, file, content, told):
    path = tmp_path / file
    for folder in (tmp_path / "configs", path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    (tmp_path / "configs" / "run.yaml").write_text(json.dumps({"run": f"%{file}::run"}))
    for checked in (tmp_path, tmp_path / "configs" / "run.yaml"):  # a macro is followed
        said = [(finding.file.name, finding.key) for finding in check_path(checked) if "'exec'" in finding.message]
        assert (path.name, told) in said


def test_other_files_of_a_bundle(tmp_path):
    (tmp_path / "configs").mkdir()
    np.save(tmp_path / "prior.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "pair.npz", a=np.ones(2), b=np.array([{}], dtype=object))
    np.save(tmp_path / "good.npy", np.ones((2, 2)))
    # a header as long as this has a line break in its length, before it says what the array holds
    padded = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(0x0A36 - 1) + b"\n"
    (tmp_path / "long.npy").write_bytes(b"\x93NUMPY\x01\x00\x36\x0a" + padded + pickle.dumps([Evil()]))
    (tmp_path / "none.npy").write_bytes(b"no array")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(1))
    torch.save({"a": Evil()}, tmp_path / "elsewhere.pt")
    told = {finding.file.name for finding in check_path(tmp_path)} - {"LICENSE", "metadata.json"}
    assert told == {
        "prior.npy",
        "pair.npz",
        "long.npy",
        "none.npy",
        "x.pkl",
        "elsewhere.pt",
    }


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


@pytest.mark.parametrize("new", [True, False])
def test_weights(tmp_path, new):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(2), "n": 1, "b": torch.zeros(2, dtype=torch.bfloat16)}, path,
               _use_new_zipfile_serialization=new)  # fmt: skip
    assert doubts_of_weights(path) == []
    for harmful, named in ((Evil(), "posix.system"), (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear")):
        torch.save({"a": torch.zeros(2), "e": harmful}, path, _use_new_zipfile_serialization=new)
        told = "\n".join(doubts_of_weights(path))
        assert f"{named}" in told if new else "has pickled objects" in told


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path, protocol):
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps({"e": Evil()}, protocol))
    assert "has pickled objects" in doubts_of_weights(path)[0]


def test_damaged_weights(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(200)}, path)
    whole = path.read_bytes()
    for data in (whole[:300], whole[:-200], b"hello" * 50, b"", whole.replace(b"PK\x01\x02", b"PK\x09\x09")):
        path.write_bytes(data)
        assert doubts_of_weights(path), data[:20]


def broken(content, **changes):
    """A datalist with its second scan changed; None removes a key."""
    scan = {**content["training"][1], **changes}
    scan = {key: value for key, value in scan.items() if value is not None}
    return {**content, "training": [content["training"][0], scan, *content["training"][2:]]}


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"slice_labels": [7] * 8}, "slice_labels", "must be a list with 0 or 1 for each slice"),
        ({"slice_labels": []}, "slice_labels", "must be a list with 0 or 1 for each slice"),
        ({"slice_labels": [0, 1]}, "slice_labels", "2 labels, but images/phantom_001.nii.gz has 8 slices"),
        ({"image": "images/gone.nii.gz"}, "image", "file not found: images/gone.nii.gz"),
        ({"image": "images/phantom_000.nii.gz"}, "image", "has the same file name as training[0]"),
        ({"image": None}, "image", "is missing"),
        ({"image": 3}, "image", "must be the path of a NIfTI file"),
        ({"case": None}, "case", "is missing"),
        ({"label": "datalist.json"}, "label", "broken.json: not a NIfTI|not a NIfTI"),
        ({"label_slices": [8]}, "label_slices", "a slice index beyond the 8 of"),
        ({"label_slices": [0.5]}, "label_slices", "must be a list of slice indices"),
        ({"fold": "one"}, "fold", "must be a number from 0"),
        ({"slice_label": [0]}, "slice_label", "unknown key"),
        ({"spacing_mm": [1, 1]}, "spacing_mm", "must be three lengths in mm"),
    ],
)  # fmt: skip
def test_a_datalist_as_prepare_writes_it_then_broken(phantoms, changes, key, said):
    """One schema serves ``check`` and ``load_datalist``; what the header of a file says is for ``check`` alone."""
    content = json.loads((phantoms / "datalist.json").read_text())
    assert "counts" in content and check_path(phantoms / "datalist.json") == []
    file = phantoms / "broken.json"
    file.write_text(json.dumps(broken(content, **changes)))
    try:
        told = "\n".join(f.message for f in check_path(file) if f.key == f"training::1::{key}")
        assert re.search(re.escape(said) if "|" not in said else said, told)
        if said == "unknown key" or " slices" in said or "beyond" in said or key == "label":
            load_datalist(file)
        else:
            with pytest.raises(IchsegError, match=key):
                load_datalist(file)
    finally:
        file.unlink()


def test_what_is_and_is_no_datalist(phantoms, tmp_path):
    content = json.loads((phantoms / "datalist.json").read_text())
    content["training"][0] |= {"patient": 7, "fold": None}
    content["training"][0]["image"] = str(phantoms / content["training"][0]["image"])
    file = tmp_path / "datalist.json"
    file.write_text(json.dumps({"training": [{k: v for k, v in content["training"][0].items() if k != "label"}]}))
    assert check_path(file) == [] and load_datalist(file)[0]["patient"] == 7
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "part.json").write_text(json.dumps({"training": {"epochs": 3}}))
    assert not [f for f in check_path(tmp_path / "configs" / "part.json") if "list of scans" in f.message]


def test_datalists_that_are_none(tmp_path):
    for content in (
        {"training": []},
        {"training": {}},
        {"training": [[]]},
        {"trainin": [{"case": "a", "image": "a.nii"}]},
    ):
        (tmp_path / "datalist.json").write_text(json.dumps(content))
        assert check_path(tmp_path / "datalist.json")
        with pytest.raises(IchsegError, match="training"):
            load_datalist(tmp_path / "datalist.json")


def test_what_our_commands_write_is_clean_and_found_when_broken(phantoms, tmp_path):
    """Datalists of every kind, weights and checkpoints."""
    whole, table = str(phantoms / "datalist.json"), tmp_path / "labels.csv"
    lines = [f"{s['case']},{n + 1},{v}" for s in load_datalist(whole) for n, v in enumerate(s["slice_labels"])]
    table.write_text("\n".join(["case,slice_number,hemorrhage", *lines]))
    for words, out in (
        (["implants", whole, str(tmp_path / "i"), "--folds", "0-4", "--per-scan", "1"], "i"),
        (["compact", whole, str(tmp_path / "c"), "--size", "32"], "c"),
        (["nifti", str(phantoms / "images"), str(table), str(tmp_path / "n")], "n"),
    ):
        assert main(["prepare", *words]) == 0
        assert check_path(tmp_path / out / "datalist.json") == []
    words = ["train-classifier", "--datalist", whole, "--output", str(tmp_path / "r"), "--backbone", "resnet34",
             "--size", "32", "--epochs", "1", "--batch-size", "4", "--val-folds", "4", "--device", "cpu"]  # fmt: skip
    assert main(words) == 0
    for name in ("model.pt", "checkpoint.pt"):
        file = tmp_path / "r" / "resnet34" / name
        assert check_path(file) == []
        file.write_bytes(file.read_bytes()[:-1000])
        assert check_path(file)


def test_what_is_nothing_to_check(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "object.yaml").write_text("a: !!python/object/apply:os.system [id]")
    assert main(["check", str(tmp_path / "broken.yaml"), str(tmp_path / "object.yaml")]) == 1
    assert capsys.readouterr().out.count("cannot be read") == 2
    for word in ("none.yaml", "."):
        assert main(["check", str(tmp_path / word)]) == 2
    (tmp_path / "notes.txt").write_text("x")
    assert main(["check", str(tmp_path / "notes.txt")]) == 2
