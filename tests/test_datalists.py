"""Datalists and masks that contradict themselves or each other."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from ichseg.cli import main
from ichseg.data import check_folds, load_datalist, prepare_nifti_masks
from ichseg.errors import IchsegError
from ichseg.io import SPACING_UNKNOWN, read_mask, read_volume, write_volume
from ichseg.presets import Plan, train_fold
from ichseg.synthetic.implants import prepare_implants


def test_patients_stay_in_one_part(phantoms, tmp_path, capsys):
    made = json.loads((phantoms / "datalist.json").read_text())
    for number in (0, 4):
        made["training"][number]["patient"] = "P1"
    for scan in made["training"]:
        for key in ("image", "label"):
            scan[key] = str(phantoms / scan[key])
    (tmp_path / "datalist.json").write_text(json.dumps(made))
    told = r"patient P1 is in folds 0 and 4"
    with pytest.raises(IchsegError, match=told):
        check_folds(tmp_path / "datalist.json", training="0-2", validation=3, test=4)
    with pytest.raises(IchsegError, match=told):
        load_datalist(tmp_path / "datalist.json", 4, apart_from="0-3")
    check_folds(tmp_path / "datalist.json", training="0,4", validation=3)
    words = ["train", "--datalist", str(tmp_path / "datalist.json"), "--output", str(tmp_path / "run")]
    assert main([*words, "--cross-validate"]) == 2 and "patient P1 is in folds 0 and 4" in capsys.readouterr().err
    with pytest.raises(IchsegError, match="a model has seen what folds hold out; no init_weights"):
        plan = Plan(
            datalist=phantoms / "datalist.json", output=tmp_path / "run", settings=("init_weights=/x/model.pt",)
        )
        train_fold("recommended", plan, range(5), 0)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("case", "phantom_000", r"training\[1\] .*'case' is the same as that of training\[0\]"),
        ("label_slices", [0, 1, 1], "'label_slices' names a slice twice"),
    ],
)
def test_datalists_that_contradict_themselves(phantoms, tmp_path, key, value, said):
    made = json.loads((phantoms / "datalist.json").read_text())
    made["training"][1][key] = value
    (tmp_path / "datalist.json").write_text(json.dumps(made))
    with pytest.raises(IchsegError, match=said):
        load_datalist(tmp_path / "datalist.json", check_files=False)


def test_labels_and_folds_as_tables_write_them(phantoms, tmp_path):
    made = json.loads((phantoms / "datalist.json").read_text())
    made["training"][0]["slice_labels"] = [float(label) for label in made["training"][0]["slice_labels"]]
    made["training"][1]["fold"] = None
    (tmp_path / "datalist.json").write_text(json.dumps(made))
    scans = load_datalist(tmp_path / "datalist.json", check_files=False)
    assert {type(label) for label in scans[0]["slice_labels"]} == {int} and "fold" not in scans[1]


def test_a_mirrored_mask_is_laid_on_its_scan(phantoms, tmp_path):
    scan = load_datalist(phantoms / "datalist.json", 0)[0]
    for folder in ("scans", "masks"):
        (tmp_path / folder).mkdir()
    shutil.copy(scan["image"], tmp_path / "scans" / "a.nii.gz")
    mask = nib.load(scan["label"])
    turned = mask.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    nib.Nifti1Image((np.asarray(turned.dataobj) > 0).astype(np.uint8), turned.affine).to_filename(
        tmp_path / "masks" / "a.nii.gz"
    )
    prepare_nifti_masks(tmp_path / "scans", tmp_path / "masks", tmp_path / "data")
    (made,) = load_datalist(tmp_path / "data" / "datalist.json")
    assert made["slice_labels"] == scan["slice_labels"] and 0 < sum(made["slice_labels"]) < 8
    assert np.array_equal(read_mask(made["label"])[0] > 0, np.asarray(mask.dataobj) > 0)


def test_spacing_that_is_not_known_stays_so(phantoms, tmp_path):
    scan = load_datalist(phantoms / "datalist.json", 3)[0]
    volume = read_volume(scan["image"])
    (tmp_path / "images").mkdir()
    write_volume(tmp_path / "images" / "a.nii.gz", volume.array.astype(np.int16), volume.affine, SPACING_UNKNOWN)
    entry = {"case": "a", "image": "images/a.nii.gz", "fold": 0, "slice_labels": scan["slice_labels"]}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry]}))
    prepare_implants(tmp_path / "datalist.json", tmp_path / "out", folds="0")
    for made in load_datalist(tmp_path / "out" / "datalist.json"):
        assert any(SPACING_UNKNOWN in flag for flag in read_volume(made["image"]).flags)
