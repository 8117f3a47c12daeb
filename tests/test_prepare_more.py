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


BOTH = 1  # the scan of two raters


def first_slice(head):
    """The first with hemorrhage; 0 without any."""
    return int((head.label > 0).any(axis=(0, 1)).argmax())


@pytest.fixture
def mbh(heads, tmp_path):
    """Scans of two and three raters, who differ in a slice and in the subtype."""
    root = tmp_path / "MBH_Train_2025_voxel-label"
    for number, head in enumerate(heads):
        folder = root / f"ID_{number // 2:08x}_ID_{number:010x}"
        folder.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(head.image.astype(np.int16), head.affine), folder / "image.nii.gz")
        mask = (head.label > 0).astype(np.uint8) * 2
        less = mask.copy()
        less[..., first_slice(head)] = 0
        other = np.where(mask > 0, 4, 0).astype(np.uint8)
        for rater, drawn in zip((1, 3, 5) if number != BOTH else (1, 3), (mask, less, other), strict=False):
            nibabel.save(nibabel.Nifti1Image(drawn, head.affine), folder / f"label_annot_{rater}.nii.gz")
    return root


def labels_of(folder, case):
    return np.asarray(nibabel.load(folder / "labels" / f"{case}.nii.gz").dataobj)


def test_raters_agree_by_majority(mbh, heads, tmp_path, capsys):
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "data")]) == 0
    assert "raters dice: 0." in capsys.readouterr().out
    scans = load_datalist(tmp_path / "data" / "datalist.json")
    assert len(scans) == 6 and len({scan["patient"] for scan in scans}) == 3
    assert [scan["raters"] for scan in scans] == [2 if number == BOTH else 3 for number in range(6)]
    for number, (scan, head) in enumerate(zip(scans, heads, strict=True)):
        expected = (head.label > 0).copy()
        if number == BOTH:
            expected[..., first_slice(head)] = False  # of two raters, both
        found = labels_of(tmp_path / "data", scan["case"])
        assert np.array_equal(found > 0, expected) and set(np.unique(found)) <= {0, 2, 4}
        if number != BOTH and expected.any():  # two say 2, or one does, and one says 4: the lower code
            assert set(np.unique(found)) == {0, 2}


def test_any_rater_and_one_rater(mbh, heads, tmp_path, capsys):
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "any"), "--raters", "any"]) == 0
    for scan, head in zip(load_datalist(tmp_path / "any" / "datalist.json"), heads, strict=True):
        assert np.array_equal(labels_of(tmp_path / "any", scan["case"]) > 0, head.label > 0)
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "five"), "--raters", "5"]) == 0
    assert "not outlined by rater 5; left out" in capsys.readouterr().err
    assert len(load_datalist(tmp_path / "five" / "datalist.json")) == 5
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "no"), "--raters", "all"]) == 2
    assert "raters must be majority, any or a rater's number" in capsys.readouterr().err


def test_other_layouts_of_raters_are_refused(mbh, tmp_path, capsys):
    first = sorted(mbh.iterdir())[0]
    one = next(first.glob("label_annot_*"))
    image = nibabel.load(one)
    nibabel.save(nibabel.Nifti1Image(np.full(image.shape, 6, np.uint8), image.affine), one)
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "data")]) == 2
    assert "unknown mask codes [6]" in capsys.readouterr().err
    for file in first.glob("label_annot_*"):
        file.unlink()
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "data")]) == 2
    assert f"{first}: no label_annot_N.nii.gz" in capsys.readouterr().err
    (first / "image.nii.gz").unlink()
    assert main(["prepare", "mbh-seg", str(mbh), str(tmp_path / "data")]) == 2
    assert "image.nii.gz: file not found" in capsys.readouterr().err and not (tmp_path / "data").exists()
    assert main(["prepare", "mbh-seg", str(tmp_path / "absent"), str(tmp_path / "data")]) == 2
    assert "no folder per scan" in capsys.readouterr().err


def test_any_masks_with_codes_that_are_named(instance, heads, tmp_path, capsys):
    root = instance / "train_2"
    for file in (root / "label").iterdir():
        image = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine), file)
    words = ["prepare", "masked", str(root / "data"), str(root / "label"), str(tmp_path / "data")]
    assert main(words) == 2
    assert "unknown mask codes [2]" in capsys.readouterr().err
    assert main([*words, "--codes", "1=IPH,2=IVH"]) == 0
    with (tmp_path / "data" / "slice_labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["IVH"] for row in rows if row["hemorrhage"] == "1"} == {"1"}
    assert {row["IPH"] for row in rows} == {"0"}
    for wrong in ("x", "1=ICH", "0", ""):
        assert main([*words[:-1], str(tmp_path / "other"), "--codes", wrong]) == 2
        assert "expected CODE or CODE=SUBTYPE" in capsys.readouterr().err
    assert main(["prepare", "masked", str(root / "absent"), *words[3:]]) == 2
    assert "absent: folder not found" in capsys.readouterr().err
