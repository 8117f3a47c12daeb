"""The bundle in MONAI Label: same masks as the command line, one structure, and training that inference then uses.

Runs where ``monailabel`` is installed, in an environment of its own: docs/monai_apps.md says how to make one.
"""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import masked_pairs, segmenter_file

from ichseg.bundle import bundle_folder
from ichseg.cli import main

pytest.importorskip("monailabel")
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "ich_segmentation"
    shutil.copytree(bundle_folder("ich_segmentation"), folder, ignore=shutil.ignore_patterns("*.pt", "runs"))
    (folder / "models").mkdir(exist_ok=True)
    return folder


def inferred(task, scan, **request):
    path, told = task(
        {"image": str(scan), "device": "cpu", "result_extension": ".nii.gz", "result_dtype": "uint8", **request}
    )
    return nib.load(path), told


def test_one_structure_in_a_volume(bundle):
    segmenter_file(bundle / "models" / "model.pt", threshold=0.25)
    task = BundleInferTask(str(bundle), {})
    told = task.info()
    assert task.is_valid() and told["type"] == "segmentation" and told["labels"] == {"hemorrhage": 1}
    assert told["dimension"] == 3 and told["config"]["threshold"] == 0.25


def test_mask_is_that_of_the_command_line(phantoms, tmp_path):
    scan = sorted((phantoms / "images").glob("*.nii.gz"))[0]
    image = nib.load(scan)
    turned = nib.Nifti1Image(np.asarray(image.dataobj)[:, ::-1, ::-1], image.affine @ np.diag([1, -1, -1, 1]))
    turned.affine[:3, 3] = 10, -20, 30
    nib.save(turned, tmp_path / "turned.nii.gz")
    task = BundleInferTask(str(bundle_folder("ich_segmentation")), {})
    for file, threshold in ((scan, 0.66), (tmp_path / "turned.nii.gz", 0.2)):
        words = ["segment", str(file), str(tmp_path / "masks"), "--no-report", "--device", "cpu"]
        assert main([*words, "--set", f"threshold={threshold}"]) == 0
        own = nib.load(tmp_path / "masks" / file.name.replace(".nii.gz", "_ich.nii.gz"))
        theirs, _ = inferred(task, file, threshold=threshold)
        assert np.asarray(own.dataobj).any()
        np.testing.assert_array_equal(np.asarray(theirs.dataobj), np.asarray(own.dataobj))
        np.testing.assert_allclose(theirs.affine, own.affine, atol=1e-3)


class Annotated:
    """What MONAI Label's training asks of a datastore."""

    def __init__(self, items):
        self.items = items

    def datalist(self):
        return self.items


def test_train_makes_what_infer_runs(bundle, phantoms):
    segmenter_file(bundle / "models" / "model.pt", threshold=0.01)
    items = masked_pairs(phantoms, (0, 1, 2, 3, 4))
    infer = BundleInferTask(str(bundle), {})
    inferred(infer, items[0]["image"])
    before = infer._get_network("cpu", None).state_dict()
    train = BundleTrainTask(str(bundle), {})
    assert train.is_valid()
    request = {"model": "ich_segmentation", "device": "cpu", "max_epochs": 2, "multi_gpu": False}
    train({**train.config(), **request}, Annotated(items))
    assert len((bundle / "runs" / "finetuned_1" / "history.csv").read_text().splitlines()) == 3
    assert (bundle / "models" / "model_before.pt").is_file()
    inferred(infer, items[0]["image"])
    after = infer._get_network("cpu", None).state_dict()
    saved = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(after[key], saved[key]) for key in saved)
    assert any(not torch.equal(after[key], before[key]) for key in saved)
