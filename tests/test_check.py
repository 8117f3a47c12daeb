"""What is examined before it runs: the harmful is found, our own bundles and plain configs are not."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import yaml

from ichseg.bundle import bundle_folder
from ichseg.check import check_path, doubts_of_expression, doubts_of_weights
from ichseg.cli import main

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
        ({"_target_": "LoadImagedd", "keys": "image"}, "_target_", "no component of MONAI"),
        ({"_target_": "torch.nn.Liner", "in_features": 1}, "_target_", "did you mean 'Linear'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_feature": 1}, "out_feature", "mean 'out_features'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1}, "out_features", "needs this key"),
        ({"_target_": "torch.nn.ReLU", "_disable_": True}, "_disable_", "did you mean '_disabled_'"),
        ({"_taget_": "torch.nn.ReLU"}, "_taget_", "special key"),
        ({"_target_": "@which"}, "_target_", "taken from elsewhere"),
        ({"_target_": "%configs/a.yaml::b"}, "_target_", "taken from elsewhere"),
        ({"_target_": "torch.nn.Identity", "_mode_": "debug"}, "_mode_", "must be one of default, callable"),
        ({"_target_": "ichseg.io.write_text", "path": "x", "text": ""}, "_target_", "is ichseg.io.atomic.write_text"),
        ({"_target_": "monai.networks.utils.save_state", "src": 1, "path": "x"}, "_target_", "not on the list"),
        ({"_target_": "PersistentDataset", "data": [], "transform": 1, "cache_dir": "x"}, "_target_", "not on the li"),
        ({"_target_": "NumpyReader", "allow_pickle": True}, "allow_pickle", "lets a loader run"),
        ({"a::_target_": "os.system"}, "a::_target_", "not on the list"),
        ({"a'] or exec('1": 1}, "a'] or exec('1", "other characters"),
        ({"x": "@imports::0"}, "x", "refers to an import"),
        ({"x": "$import torch"}, "x", "imports a module outside"),
    ],
)  # fmt: skip
def test_targets(tmp_path, entry, key, said):
    import re

    told = found(tmp_path, {"x": {"y": [entry]}})
    assert re.search(said, told[f"x::y::0::{key}"])


def test_references_macros_and_files(tmp_path):
    told = found(tmp_path, {
        "a": {"b": [1, 2]}, "good": "@a::b::1", "old": "@a#b#0", "bad": "@a::c", "gone": "$@nowhere + 1",
        "out": "%../../secret.json::a", "lost": "%other.yaml::a", "weights": "$@bundle_root + '/models/none.pt'",
        "bundle_root": ".", "own": {"_target_": "my_package.Thing"},
    })  # fmt: skip
    assert set(told) == {"bad", "gone", "out", "lost", "weights", "own::_target_"}
    assert "@a::c is in no config" in told["bad"] and "outside the bundle" in told["out"]
    assert "models/none.pt" in told["weights"]
    told = found(tmp_path, {"own": {"_target_": "my_package.Thing"}}, "my_package")
    assert "there is no package 'my_package'" in told["own::_target_"]


def test_own_bundles_are_clean():
    assert check_path(bundle_folder("ich_segmentation")) == []
    assert check_path(bundle_folder("ich_slice_classification")) == []
    lacking = check_path(bundle_folder("ich_pseudo_segmentation"))  # its classifiers are yours to train
    assert [finding.key for finding in lacking] == ["classifiers::resnet34", "classifiers::resnet50"]


def test_a_tampered_bundle(tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(bundle_folder("ich_segmentation"), bundle)
    config = bundle / "configs" / "inference.yaml"
    config.write_text(config.read_text() + "\nextra: \"$__import__('os').system('touch pwned')\"\n")
    logging = bundle / "configs" / "logging.conf"
    logging.write_text(logging.read_text().replace("args=(sys.stdout,)", "args=(__import__('os').system('id'),)"))
    torch.save({"a": Evil()}, bundle / "models" / "model.pt")
    (bundle / "LICENSE").unlink()
    assert main(["check", str(bundle)]) == 1
    text = capsys.readouterr().out
    assert f"{config}: extra: expression uses '__import__'" in text
    assert f"{logging}: handler_consoleHandler::args:" in text
    assert f"{bundle / 'models' / 'model.pt'}: holds a pickled object: posix.system" in text
    assert f"{bundle / 'LICENSE'}: file not found" in text
    assert not (tmp_path / "pwned").exists() and len(text.splitlines()) == 5


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
    handler = "[handler_x]\nclass=FileHandler\nargs={}\n"
    (tmp_path / "a.conf").write_text(handler.format("('/root/.bashrc', 'a')"))
    (tmp_path / "b.conf").write_text(handler.format("('../x', 'a')"))
    (tmp_path / "c.conf").write_text(handler.format("('run.log', 'a')"))
    (tmp_path / "d.conf").write_text(handler.format("()") + "kwargs={'a': exec('1')}\n")
    told = {finding.file.name for finding in check_path(tmp_path)} - {"LICENSE", "metadata.json"}
    assert told == {
        "prior.npy",
        "pair.npz",
        "long.npy",
        "none.npy",
        "x.pkl",
        "elsewhere.pt",
        "a.conf",
        "b.conf",
        "d.conf",
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
    torch.save({"a": torch.zeros(2), "e": Evil()}, path, _use_new_zipfile_serialization=new)
    assert doubts_of_weights(path) == ["holds a pickled object: posix.system"]
    torch.save(torch.nn.Linear(1, 1), path, _use_new_zipfile_serialization=new)
    assert any("torch.nn.modules.linear.Linear" in doubt for doubt in doubts_of_weights(path))


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(tmp_path, protocol):
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps({"e": Evil()}, protocol))
    assert doubts_of_weights(path) == ["holds a pickled object: posix.system"]


def test_damaged_weights(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(200)}, path)
    whole = path.read_bytes()
    for data in (whole[:300], whole[:-200], b"hello" * 50, b"", whole.replace(b"PK\x01\x02", b"PK\x09\x09")):
        path.write_bytes(data)
        assert doubts_of_weights(path), data[:20]


def test_datalists(tmp_path, phantoms):
    assert check_path(phantoms / "datalist.json") == []
    entries = [{"case": "a", "image": "gone.nii.gz"}, {"case": "b", "imge": "x"}, [], {
        "case": "c", "image": "gone.nii.gz", "slice_labels": [0, 2]}]  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps({"training": entries}))
    told = {finding.key: finding.message for finding in check_path(tmp_path / "datalist.json")}
    assert told == {
        "training::0::image": "file not found: gone.nii.gz", "training::1::image": "missing or not text",
        "training::1::imge": "unknown key", "training::2": "is no object with keys",
        "training::3::slice_labels": "must hold one 0 or 1 per slice", "training::3::image": "the same as training::0",
    }  # fmt: skip


def test_what_is_nothing_to_check(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "object.yaml").write_text("a: !!python/object/apply:os.system [id]")
    assert main(["check", str(tmp_path / "broken.yaml"), str(tmp_path / "object.yaml")]) == 1
    assert capsys.readouterr().out.count("cannot be read") == 2
    for word in ("none.yaml", "."):
        assert main(["check", str(tmp_path / word)]) == 2
    (tmp_path / "notes.txt").write_text("x")
    assert main(["check", str(tmp_path / "notes.txt")]) == 2
