"""What a result was made of, and what is made again."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.transforms import AsDiscreted, Invertd, Lambdad, LoadImaged, NormalizeIntensityd, Spacingd
from torch import nn

from ichseg.errors import IchsegError
from ichseg.provenance import Record, describe, difference, value_hash
from ichseg.transforms import HemorrhageMaskd


class Own:
    """A step that is neither MONAI's nor ichseg's."""

    def __init__(self, value):
        self._value = value


def scaled(x, by=1):
    return x * by


PAIRS = [
    lambda one: Own(1 if one else 2),
    lambda one: HemorrhageMaskd("p", np.float64(0.1 if one else 0.9)),
    lambda one: AsDiscreted("p", threshold=np.float32(0.1 if one else 0.9)),
    lambda one: Spacingd("p", pixdim=np.array([1.0, 1, 1 if one else 8])),
    lambda one: NormalizeIntensityd("p", subtrahend=torch.tensor([0.0 if one else 1.0])),
    lambda one: Lambdad("p", (lambda x: x + 1) if one else (lambda x: x + 2)),
    lambda one: Lambdad("p", functools.partial(scaled, by=1 if one else 2)),
    lambda one: Invertd("p", transform=Lambdad("p", scaled), post_func=torch.sigmoid if one else torch.relu),
    lambda one: LoadImaged("p", dtype=torch.float32 if one else torch.int16),
    lambda one: LoadImaged("p", reader="NibabelReader" if one else "NumpyReader"),
    lambda one: nn.Conv2d(1, 1, 3, stride=1 if one else 2),
]


@pytest.mark.parametrize("make", PAIRS)
def test_what_changes_the_result_is_described(make):
    torch.manual_seed(0)
    first, other = describe(make(True)), describe(make(False))
    torch.manual_seed(0)
    assert value_hash(describe(make(True))) == value_hash(first) != value_hash(other)


def test_descriptions_are_the_same_in_every_process():
    code = (
        "import json; from ichseg.provenance import describe\n"
        "print(json.dumps(describe([{'left', 'right', 'both'}, lambda x: [y for y in x]])))"
    )
    texts = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(texts) == 1 and "both" in texts.pop()


def test_an_option_that_is_left_out_is_a_difference(tmp_path):
    assert difference({"size": 64}, {}) == "size 64, now null"
    assert difference({}, {"size": 64}) == "size null, now 64"
    assert difference({"a": 1}, {"a": 1, "b": None}) is None
    Record(tmp_path, {"size": 64, "epochs": 1}).write(complete=True)
    assert Record(tmp_path, {"size": 64, "epochs": 1}).check()
    with pytest.raises(IchsegError, match="made with epochs 1, now null; choose another output folder"):
        Record(tmp_path, {"size": 64}).check()


@pytest.mark.parametrize("made_of", ["null", "[1]", '"text"', "[" * 100_000])
def test_a_damaged_record_is_told(tmp_path, made_of):
    (tmp_path / "made_of.json").write_text('{"complete": true, "made_of": ' + made_of + "}")
    with pytest.raises(IchsegError, match=r"made_of\.json: damaged"):
        Record(tmp_path, {"size": 64}).check()


@pytest.mark.parametrize("name", ["made_with.json", "preset.json", "settings.json", "complete"])
def test_folders_of_early_versions_are_refused(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"settings": "1"}))
    with pytest.raises(IchsegError, match=r"before version 0\.7; choose another output folder"):
        Record(tmp_path, {"size": 64}).check()
