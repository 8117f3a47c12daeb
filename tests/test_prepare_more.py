"""INSTANCE 2022 and Seq-CQ500: made-up releases of the real layouts become scans; others are refused by name."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest
from PIL import Image

from ichseg.cli import main
from ichseg.data import load_datalist
from ichseg.synthetic.phantom import phantom_scan


@pytest.fixture(scope="module")
def heads():
    return [phantom_scan(seed, ("IPH",) if seed % 2 else (), size=48, slices=6) for seed in range(6)]


@pytest.fixture
def instance(heads, tmp_path):
    root = tmp_path / "download" / "train_2"
    for folder in ("data", "label"):
        (root / folder).mkdir(parents=True)
    for number, head in enumerate(heads, start=1):
        nibabel.save(
            nibabel.Nifti1Image(head.image.astype(np.int16), head.affine), root / "data" / f"{number:03}.nii.gz"
        )
        mask = (head.label > 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(mask, head.affine), root / "label" / f"{number:03}.nii.gz")
    return tmp_path / "download"


@pytest.fixture
def cq500(heads, tmp_path):
    root = tmp_path / "download"
    rows = []
    for number, head in enumerate(heads, start=1):
        (root / "Patient_CT" / f"{number:03}").mkdir(parents=True)
        for index in range(head.image.shape[2]):
            picture, mask = (np.rot90(part[..., index]) for part in (head.image, head.label > 0))
            name = f"Patient_CT/{number:03}/{index + 1}.tif"
            Image.fromarray(picture.astype(np.float32)).save(root / name)
            seg = name.replace(".tif", "_ICH_Seg.bmp")
            if mask.any():
                Image.fromarray((mask * 255).astype(np.uint8)).save(root / seg)
            rows.append({"PatientNumber": number, "SliceNumber": index + 1, "Hemorrhage": int(mask.any()),
                         "CT_fn": name, "mask_fn": seg if mask.any() else "None"})  # fmt: skip
    with (root / "ct_info.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader(), writer.writerows(reversed(rows))
    return root


def test_instance_masks_label_its_slices(instance, heads, tmp_path, capsys):
    assert main(["prepare", "instance", str(instance), str(tmp_path / "data")]) == 0
    assert "volumes: 6, slices: 36" in capsys.readouterr().out
    scans = load_datalist(tmp_path / "data" / "datalist.json")
    for scan, head in zip(scans, heads, strict=True):
        assert scan["slice_labels"] == (head.label > 0).any(axis=(0, 1)).astype(int).tolist()
        mask = nibabel.load(scan["label"])
        assert np.array_equal(mask.get_fdata() > 0, head.label > 0) and np.allclose(mask.affine, head.affine, atol=1e-4)
    row = next(csv.DictReader((tmp_path / "data" / "slice_labels.csv").open()))
    assert row["IPH"] == ""  # no subtypes are known
    (instance / "train_2" / "label" / "003.nii.gz").unlink()
    assert main(["prepare", "instance", str(instance), str(tmp_path / "again")]) == 2
    assert "003.nii.gz: no file with this name in" in capsys.readouterr().err
    assert main(["prepare", "instance", str(tmp_path / "data"), str(tmp_path / "again")]) == 2
    assert "must contain the folders 'data' and 'label', as INSTANCE 2022" in capsys.readouterr().err


def test_slices_of_seq_cq500_become_scans(cq500, heads, tmp_path, capsys):
    assert main(["prepare", "seq-cq500", str(cq500), str(tmp_path / "data")]) == 0
    said = capsys.readouterr()
    assert "volumes: 6, slices: 36" in said.out and "no spacing" in said.err
    scans = load_datalist(tmp_path / "data" / "datalist.json")
    for scan, head in zip(scans, heads, strict=True):
        assert scan["slice_labels"] == (head.label > 0).any(axis=(0, 1)).astype(int).tolist()
        made = nibabel.load(scan["image"])
        turned = [np.rot90(head.image[..., index]).T for index in range(6)]
        assert np.array_equal(made.get_fdata(), np.rint(np.stack(turned, axis=-1)))
        assert nibabel.aff2axcodes(made.affine) == ("L", "P", "S")
        assert scan["spacing_mm"] == "unknown"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "ct_info.csv").unlink(), "ct_info.csv: file not found"),
        (lambda f: (f / "ct_info.csv").write_text("PatientNumber,SliceNumber,CT_fn\n"), "no column 'mask_fn'"),
        (lambda f: (f / "Patient_CT/001/2.tif").unlink(), "2.tif: file not found, but ct_info.csv names it"),
        (lambda f: (f / "Patient_CT/001/2.tif").write_bytes(b"x"), "2.tif: not a picture"),
        (lambda f: Image.fromarray(np.zeros((4, 4), np.float32)).save(f / "Patient_CT/001/2.tif"), "2.tif: (4, 4)"),
        (lambda f: [Image.fromarray(np.full((48, 48), 9.0, np.float32)).save(f / f"Patient_CT/001/{k}.tif")
                    for k in range(1, 7)], "are not Hounsfield units"),
    ],
)  # fmt: skip
def test_another_layout_than_seq_cq500_is_refused(cq500, tmp_path, capsys, change, said):
    change(cq500)
    assert main(["prepare", "seq-cq500", str(cq500), str(tmp_path / "data")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "data").exists()
