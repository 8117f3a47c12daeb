"""Phantoms and words that the tests of the experiments share."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
from monai.networks.nets import DenseNet121, DenseNet169, resnet18, resnet34, resnet50

from ichseg.methods.resnet_lstm import network as sequences
from ichseg.networks import classifiers
from ichseg.synthetic.phantom import prepare_phantom

SMALL = ["--size", "64", "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--set", "gate_by=label"]


def rows(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def thin_backbones() -> dict[str, partial]:
    """The paper's classifiers with a quarter of their channels: what experiments train here, they train in seconds."""
    resnets = {name: partial(net, widen_factor=0.25) for name, net in (("resnet34", resnet34), ("resnet50", resnet50))}
    dense = {"densenet121": DenseNet121, "densenet169": DenseNet169}
    thin = {name: partial(net, init_features=16, growth_rate=8) for name, net in dense.items()}
    return {
        **{name: partial(classifiers._resnet, net) for name, net in resnets.items()},
        **{name: partial(classifiers._densenet, net) for name, net in thin.items()},
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six phantoms, one of them stored upside down; and the same as a second data set. Networks are thin meanwhile."""
    folder = tmp_path_factory.mktemp("experiments")
    prepare_phantom(folder / "data", scans=6, seed=3, size=64, slices=8)
    content = json.loads((folder / "data" / "datalist.json").read_text())
    turned = next(scan for scan in content["training"] if any(scan["slice_labels"]))
    turned["slice_labels"] = turned["slice_labels"][::-1]
    for key in ("image", "label"):
        image = nib.load(folder / "data" / turned[key])
        affine = image.affine.copy()
        affine[:, 3] += affine[:, 2] * (image.shape[2] - 1)
        affine[:, 2] *= -1
        array = np.asarray(image.dataobj)[..., ::-1]
        nib.save(nib.Nifti1Image(array, affine), folder / "data" / turned[key])
    # Validation and test need hemorrhage too.
    bleeding_first = sorted(content["training"], key=lambda scan: not any(scan["slice_labels"]))
    for scan, fold in zip(bleeding_first, (3, 4, 0, 1, 2, 0), strict=True):
        scan["fold"] = fold
    (folder / "data" / "datalist.json").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patched:
        for name, build in thin_backbones().items():
            patched.setitem(classifiers._BACKBONES, name, replace(classifiers._BACKBONES[name], build=build))
        patched.setattr("ichseg.networks.vgg.CHANNELS", (16, 32, 64, 128, 128))
        patched.setitem(sequences.ENCODERS, "resnet18", (partial(resnet18, widen_factor=0.25), 128))
        yield folder
