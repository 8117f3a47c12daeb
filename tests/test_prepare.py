"""Preparing data sets: layouts, labels, geometry, and what is said when a file is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from ichseg.cli import main
from ichseg.data import load_datalist, load_masked, prepare_bcihm, prepare_bhsd, prepare_nifti
from ichseg.data.bhsd import patient_of
from ichseg.data.folds import assign_folds, parse_folds
from ichseg.data.label_table import read_label_table
from ichseg.errors import IchsegError
from ichseg.io import lost_intercept, read_mask, read_volume
from ichseg.transforms import BrainWindow, SliceResize

HEADER = "PatientNumber,SliceNumber,Intraventricular,Intraparenchymal,Subarachnoid,Epidural,Subdural,No_Hemorrhage"


def write_gray(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(path))


@pytest.fixture
def release(tmp_path):
    """v1.0.0 with two patients of three slices; slice 2 of patient 49 bleeds and has a mask."""
    source = tmp_path / "release"
    rows = [HEADER]
    for patient in (49, 50):
        for number in (1, 2, 3):
            gray = np.full((16, 16), 40 * number)
            gray[:4, 8:] = 255  # front left
            write_gray(source / "Patients_CT" / f"{patient:03d}" / "brain" / f"{number}.jpg", gray)
            bleeds = int(patient == 49 and number == 2)
            rows.append(f"{patient},{number},0,{bleeds},0,0,0,{1 - bleeds}")
    mask = np.zeros((16, 16))
    mask[:8] = 255
    write_gray(source / "Patients_CT" / "049" / "brain" / "2_HGE_Seg.jpg", mask)
    (source / "hemorrhage_diagnosis.csv").write_text("\ufeff" + "\n".join(rows) + "\n")
    return source


def test_jpeg_release(release, tmp_path):
    (release / "pixel_spacing.csv").write_text("patient,in_plane_mm_of_512_grid\n049,0.5\n")
    counts = prepare_bcihm(release, tmp_path / "out")
    assert counts == {"volumes": 2, "slices": 6, "positive_slices": 1, "volumes_with_masks": 1}
    scans = load_datalist(tmp_path / "out" / "datalist.json")
    assert scans[0]["slice_labels"] == [0, 1, 0] and scans[0]["label_slices"] == [0, 1, 2]
    assert (scans[0]["fold"], scans[1]["fold"]) == (1, 2)  # the manifest's
    image = nib.load(scans[0]["image"])
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.affine, np.diag([-0.5 * 0.795, -0.5 * 0.795, 5, 1]), atol=1e-6)
    voxels = np.asarray(image.dataobj)
    # gray 40 -> -1.2 HU; axes are (column, row, slice): the bright corner is at high columns, low rows.
    assert abs(voxels[2, 12, 0] - (40 / 255 * 120 - 20)) <= 2 and voxels[12, 1, 0] > 90 and voxels[1, 12, 0] < 10
    label = np.asarray(nib.load(scans[0]["label"]).dataobj)
    assert label[:, :7, 1].all() and not label[:, 9:, 1].any() and not label[..., [0, 2]].any()
    assert scans[0]["spacing_mm"] == pytest.approx([0.3975, 0.3975, 5.0]) and scans[1]["spacing_mm"] == "unknown"
    table = list(csv.DictReader((tmp_path / "out" / "slice_labels.csv").open()))
    assert table[1] == {"case": "049", "slice_index": "1", "slice_number": "2", "hemorrhage": "1",
                        "EDH": "0", "IPH": "1", "IVH": "0", "SAH": "0", "SDH": "0"}  # fmt: skip


def test_extra_masks_and_unmasked_positive_slices(release, tmp_path):
    (release / "Patients_CT" / "049" / "brain" / "2_HGE_Seg.jpg").unlink()
    assert prepare_bcihm(release, tmp_path / "a")["volumes_with_masks"] == 0
    write_gray(tmp_path / "masks" / "049_1.png", np.zeros((16, 16)))
    prepare_bcihm(release, tmp_path / "b", masks=tmp_path / "masks")
    assert load_datalist(tmp_path / "b" / "datalist.json")[0]["label_slices"] == [0, 2]  # slice 1 bleeds, unmasked


def brain(release):
    return release / "Patients_CT" / "050" / "brain"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda r: (brain(r) / "3.jpg").unlink(), r"050/brain/3\.jpg: file not found"),
        (lambda r: (brain(r) / "3.jpg").write_bytes(b"junk"), r"050/brain/3\.jpg: not a readable image"),
        (lambda r: write_gray(brain(r) / "3.jpg", np.zeros((9, 9))), r"3\.jpg: size \(9, 9\) differs"),
        (lambda r: (r / "hemorrhage_diagnosis.csv").unlink(), r"hemorrhage_diagnosis\.csv: file not found"),
        (lambda r: (r / "hemorrhage_diagnosis.csv").write_text("a,b\n1,2\n"), "line 2: missing PatientNumber"),
        (lambda r: (r / "Patients_CT").rename(r / "CT"), "neither Patients_CT"),
    ],
)
def test_trouble_is_named_and_nothing_is_left(release, tmp_path, harm, told):
    harm(release)
    before = set(tmp_path.iterdir())
    with pytest.raises(IchsegError, match=told):
        prepare_bcihm(release, tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_extra_files_are_named(release, tmp_path):
    write_gray(brain(release) / "9.jpg", np.zeros((16, 16)))
    notes = []
    assert prepare_bcihm(release, tmp_path / "out", warn=notes.append)["slices"] == 6
    assert len(notes) == 1 and "9.jpg: no row" in notes[0]


def test_nifti_release(tmp_path):
    source = tmp_path / "release"
    affine = np.array([[0.4, 0, 0, 0], [0, 0.4, 1, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    for folder, array in (("ct_scans", np.full((8, 8, 2), 37, np.int16)), ("masks", np.zeros((8, 8, 2), np.uint8))):
        if folder == "masks":
            array[1, 1, 1] = 255
        (source / folder).mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, affine), source / folder / "049.nii")
    (source / "hemorrhage_diagnosis_raw_ct.csv").write_text(f"{HEADER}\n49,1,0,0,0,0,0,1\n49,2,0,0,1,0,0,0\n")
    assert prepare_bcihm(source, tmp_path / "out")["volumes_with_masks"] == 1
    scan = load_datalist(tmp_path / "out" / "datalist.json")[0]
    np.testing.assert_allclose(nib.load(scan["image"]).affine, affine, atol=1e-6)
    assert np.asarray(nib.load(scan["label"]).dataobj).sum() == 1
    for option in ("masks", "spacing"):
        with pytest.raises(IchsegError, match=f"extra: {option} can be added to version 1.0.0 only"):
            prepare_bcihm(source, tmp_path / "again", **{option: "extra"})
    (source / "masks" / "049.nii").unlink()
    with pytest.raises(IchsegError, match=r"masks/049\.nii: file not found"):
        prepare_bcihm(source, tmp_path / "again")


@pytest.mark.slow
@pytest.mark.real
def test_real_bcihm(real_bcihm, tmp_path):
    counts = prepare_bcihm(real_bcihm, tmp_path / "out")
    assert (counts["volumes"], counts["slices"], counts["positive_slices"]) == (82, 2501, 318)
    content = json.loads((tmp_path / "out" / "datalist.json").read_text())
    scans = {scan["case"]: scan for scan in content["training"]}
    folds = {row["patient"]: int(row["fold"]) for row in csv.DictReader((real_bcihm / "folds.csv").open())}
    assert {case: scan["fold"] for case, scan in scans.items()} == folds
    unknown = [case for case, scan in scans.items() if scan["spacing_mm"] == "unknown"]
    assert unknown == [f"{n:03d}" for n in range(59, 66)]
    image = nib.load(tmp_path / "out" / "images" / "049.nii.gz")
    assert image.shape == (650, 650, len(scans["049"]["slice_labels"]))
    assert np.asarray(image.dataobj[..., 15]).min() >= -20 and np.asarray(image.dataobj[..., 15]).max() <= 100


@pytest.fixture
def bhsd(tmp_path):
    """Four scans of three patients with the release's kind of header: unsigned, qform only, oblique."""
    source = tmp_path / "label_192"
    affine = np.array([[-0.488, 0, 0, 125], [0, 0.477, -0.85, -96], [0, 0.104, 5.2, -63], [0, 0, 0, 1.0]])
    for number, name in enumerate(("ID_aa_ID_1", "ID_aa_ID_2", "ID_bb_ID_3", "ID_cc_ID_4")):
        image = np.full((12, 12, 3), 1060, np.uint16)
        image[:3] = 24
        mask = np.zeros((12, 12, 3), np.uint8)
        mask[6, 6, 1] = number % 5 + 1
        for folder, array in (("images", image), ("ground truths", mask)):
            (source / folder).mkdir(parents=True, exist_ok=True)
            nifti = nib.Nifti1Image(array, None)
            nifti.set_qform(affine, 1, strip_shears=True)
            nib.save(nifti, source / folder / f"{name}.nii.gz")
    return source


def test_bhsd(bhsd, tmp_path):
    notes = []
    counts = prepare_bhsd(bhsd.parent, tmp_path / "out", warn=notes.append)
    assert counts == {"volumes": 4, "slices": 12, "positive_slices": 4, "patients": 3}
    scans = {s["case"]: s for s in load_datalist(tmp_path / "out" / "datalist.json")}
    assert scans["ID_aa_ID_1"]["fold"] == scans["ID_aa_ID_2"]["fold"]
    assert scans["ID_cc_ID_4"]["slice_labels"] == [0, 1, 0]
    # A single labeled voxel makes the slice positive, and its subtype is told.
    rows = list(csv.DictReader((tmp_path / "out" / "slice_labels.csv").open()))
    assert [r["SAH"] for r in rows if r["case"] == "ID_cc_ID_4"] == ["0", "1", "0"]
    image = nib.load(scans["ID_bb_ID_3"]["image"])
    assert np.asarray(image.dataobj)[6, 6, 0] == 36 and scans["ID_bb_ID_3"]["hu_offset"] == -1024
    assert len(notes) == 5 and "folds are imbalanced" in notes[-1]
    np.testing.assert_allclose(image.affine, nib.load(bhsd / "images" / "ID_bb_ID_3.nii.gz").affine, atol=1e-3)


def test_bhsd_choices(bhsd, tmp_path):
    prepare_bhsd(bhsd, tmp_path / "scan", group_by="scan", labels_at=4, fold_tolerance=1.0)
    scans = load_datalist(tmp_path / "scan" / "datalist.json")
    assert len({s["fold"] for s in scans}) == 4 and [s["patient"] for s in scans] == [s["case"] for s in scans]
    # One voxel of twelve in a row falls between the four that nearest resizing looks at.
    assert not any(any(s["slice_labels"]) for s in scans)
    with pytest.raises(IchsegError, match="group_by must be patient or scan, not 'week'"):
        prepare_bhsd(bhsd, tmp_path / "week", group_by="week")


def test_bhsd_trouble_is_named(bhsd, tmp_path):
    (bhsd / "ground truths" / "ID_cc_ID_4.nii.gz").unlink()
    with pytest.raises(IchsegError, match=r"ID_cc_ID_4\.nii\.gz: no file with this name in .*ground truths"):
        prepare_bhsd(bhsd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_patient_and_intercept():
    assert patient_of("ID_0237f3c9_ID_40015688b9") == "ID_0237f3c9"
    hounsfield = np.concatenate([np.full(50, -1000.0), np.full(50, 35.0), np.full(9, 950.0)])
    assert lost_intercept(hounsfield) == 0 and lost_intercept(hounsfield + 1024) == 1024
    assert lost_intercept(hounsfield.clip(0)) == 0  # clipped at water: nothing to give back


def test_own_nifti_scans_with_masks(phantoms, tmp_path, capsys):
    scans = load_datalist(phantoms / "datalist.json")
    lines = ["case,slice_number,hemorrhage"]
    lines += [f"{s['case']},{i + 1},{v}" for s in scans for i, v in enumerate(s["slice_labels"])]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    words = ["prepare", "nifti", str(phantoms / "images"), str(tmp_path / "labels.csv"), str(tmp_path / "out")]
    assert main([*words, "--masks", str(phantoms / "labels")]) == 0
    entries = load_datalist(tmp_path / "out" / "datalist.json")
    assert [Path(e["label"]).samefile(s["label"]) for e, s in zip(entries, scans, strict=True)] == [True] * len(scans)
    assert main([*words[:-1], str(tmp_path / "other"), "--masks", str(tmp_path)]) == 2
    assert "no mask <case>.nii.gz for any of 5 scans" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*words[:-1], str(tmp_path / "other"), "--per-scan", "3"])  # which is for implants
    assert "--per-scan" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_own_nifti_scans(phantoms, tmp_path):
    table = tmp_path / "labels.csv"
    scans = load_datalist(phantoms / "datalist.json")
    lines = ["case,slice_number,hemorrhage,patient"]
    for number, scan in enumerate(scans):
        lines += [f"{scan['case']},{i + 1},{v},P{number // 2}" for i, v in enumerate(scan["slice_labels"])]
    table.write_text("\n".join(lines) + "\n")
    counts = prepare_nifti(phantoms / "images", table, tmp_path / "out")
    assert counts["volumes"] == 5 and counts["patients"] == 3
    mine = load_datalist(tmp_path / "out" / "datalist.json")
    assert [s["slice_labels"] for s in mine] == [s["slice_labels"] for s in scans]
    assert mine[0]["image"] == scans[0]["image"] and mine[0]["fold"] == mine[1]["fold"]
    table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(IchsegError, match="case 'phantom_004' needs one row for each slice 1 to 8"):
        prepare_nifti(phantoms / "images", table, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_compact_copy_keeps_what_counts(phantoms, tmp_path, capsys):
    """Fewer bytes; HU to the nearest whole one, labels, folds and subtypes kept."""
    whole, copy = phantoms / "datalist.json", tmp_path / "small"
    assert main(["prepare", "compact", str(whole), str(copy), "--size", "48"]) == 0
    assert "bytes:" in capsys.readouterr().out
    before, after = load_datalist(whole), load_datalist(copy / "datalist.json")
    assert (copy / "slice_labels.csv").read_bytes() == (phantoms / "slice_labels.csv").read_bytes()
    assert json.loads((copy / "datalist.json").read_text())["hounsfield"] == [-20, 115]
    for old, new in zip(before, after, strict=True):
        assert all(new[key] == old[key] for key in ("case", "patient", "fold", "slice_labels"))
        stored = nib.load(new["image"])
        assert stored.get_data_dtype() == np.uint8 and stored.shape[:2] == (48, 48)
        seen, kept = read_volume(old["image"]), read_volume(new["image"])
        assert kept.array.min() >= -20 and kept.array.max() <= 115 and kept.array.max() > 60
        clipped = MetaTensor(torch.from_numpy(np.clip(seen.array, -20, 115))[None], affine=torch.as_tensor(seen.affine))
        expected = SliceResize(48)(clipped)
        assert np.abs(expected[0].numpy() - kept.array).max() <= 0.5 + 1e-3
        np.testing.assert_allclose(kept.affine, np.asarray(expected.affine), atol=1e-5)
        assert Path(new["image"]).stat().st_size < Path(old["image"]).stat().st_size / 2
        # What the paper's preset sees of the copy is what it sees of the scan, but for rounding and edges of air.
        shown = [
            SliceResize(48)(BrainWindow(50, 130)(MetaTensor(torch.from_numpy(v.array)[None], affine=v.affine)))
            for v in (seen, kept)
        ]
        assert (shown[0] - shown[1]).abs().mean() < 0.005
        mask, small = read_mask(old["label"])[0], read_mask(new["label"])[0]
        assert small.shape == kept.array.shape and set(np.unique(small)) <= set(np.unique(mask))
        assert (small > 0).mean() == pytest.approx((mask > 0).mean(), abs=2e-3)
    # Nothing is enlarged, nothing is overwritten, and only what is copied stands in the table.
    assert main(["prepare", "compact", str(whole), str(tmp_path / "same"), "--size", "999", "--folds", "0"]) == 0
    only = load_datalist(tmp_path / "same" / "datalist.json")
    assert {scan["fold"] for scan in only} == {0}
    with (tmp_path / "same" / "slice_labels.csv").open(newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {scan["case"] for scan in only}
    assert nib.load(only[0]["image"]).shape == nib.load(load_datalist(whole, "0")[0]["image"]).shape
    assert main(["prepare", "compact", str(whole), str(copy)]) == 2
    assert main(["prepare", "compact", str(whole), str(tmp_path / "none"), "--size", "0"]) == 2
    assert not (tmp_path / "none").exists()


def test_a_compact_copy_goes_by_file_names_and_says_what_does_not_fit(phantoms, tmp_path, capsys):
    scans = json.loads((phantoms / "datalist.json").read_text())["training"][:2]
    for number, scan in enumerate(scans):  # cases that are no file names, and no table of slice labels
        scan.update(case=f"one/../{number}", image=str(phantoms / scan["image"]), label=str(phantoms / scan["label"]))
    source = tmp_path / "source"
    source.mkdir()
    (source / "datalist.json").write_text(json.dumps({"training": scans}))
    assert main(["prepare", "compact", str(source / "datalist.json"), str(tmp_path / "copy"), "--size", "32"]) == 0
    copied = load_datalist(tmp_path / "copy" / "datalist.json")
    assert [Path(scan["image"]).name for scan in copied] == [Path(scan["image"]).name for scan in scans]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "source"]
    with (tmp_path / "copy" / "slice_labels.csv").open(newline="") as file:
        labels = [int(row["hemorrhage"]) for row in csv.DictReader(file)]
    assert labels == [label for scan in scans for label in scan["slice_labels"]]
    for harm, told in (
        ({"slice_labels": [0, 1]}, "8 slices, but the datalist lists 2 slice_labels"),
        ({"label": str(tmp_path / "moved.nii.gz")}, "not on the same grid as"),
    ):
        image = nib.load(scans[0]["label"])
        nib.save(nib.Nifti1Image(image.dataobj, image.affine @ np.diag([1, 1, 2, 1])), tmp_path / "moved.nii.gz")
        (source / "datalist.json").write_text(json.dumps({"training": [{**scans[0], **harm}]}))
        assert main(["prepare", "compact", str(source / "datalist.json"), str(tmp_path / "bad")]) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "bad").exists()
    (source / "slice_labels.csv").write_text("case\nx\n")
    assert main(["prepare", "compact", str(source / "datalist.json"), str(tmp_path / "bad")]) == 2
    assert "every row must have case and slice_index" in capsys.readouterr().err


def test_folds_are_even_and_repeatable():
    patients = {f"p{i}": (25 + i % 11, (i * 7) % 13 if i % 2 else 0) for i in range(60)}
    folds = assign_folds(patients)
    assert folds == assign_folds(dict(reversed(patients.items())))
    slices, positive = sum(n for n, _ in patients.values()), sum(p for _, p in patients.values())
    for fold in range(5):
        members = [patients[p] for p, f in folds.items() if f == fold]
        n, p = sum(n for n, _ in members), sum(p for _, p in members)
        assert abs(n / slices - 0.2) <= 0.03 and abs(p / n - positive / slices) <= 0.03


@pytest.mark.parametrize(("text", "folds"), [("0-2", (0, 1, 2)), ("3,4", (3, 4)), (2, (2,)), ([1, 0], (1, 0))])
def test_parse_folds(text, folds):
    assert parse_folds(text) == folds


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.pop("training"), "key 'training' must be a list of scans"),
        (lambda c: c["training"][1].pop("image"), r"training\[1\] \(case phantom_001\): key 'image' is missing"),
        (lambda c: c["training"][0].update(image="images/x.nii.gz"), r"image file not found: .*images/x\.nii\.gz"),
        (lambda c: c["training"][0].update(slice_labels=[0, 2]), "'slice_labels' must be a list with 0 or 1"),
    ],
)
def test_datalist_errors_name_the_entry(phantoms, tmp_path, change, told):
    content = json.loads((phantoms / "datalist.json").read_text())
    change(content)
    (tmp_path / "images").symlink_to(phantoms / "images")
    (tmp_path / "labels").symlink_to(phantoms / "labels")
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(IchsegError, match=told):
        load_datalist(tmp_path / "datalist.json")


def test_datalist_folds_and_missing_pseudo_masks(phantoms, tmp_path):
    assert [s["case"] for s in load_datalist(phantoms / "datalist.json", "1-2")] == ["phantom_001", "phantom_002"]
    with pytest.raises(IchsegError, match=r"no scan in fold\(s\) \[9\]"):
        load_datalist(phantoms / "datalist.json", [9])
    with pytest.raises(IchsegError, match=r"phantom_000_pseudo\.nii\.gz: pseudo-mask not found \(5 of 5"):
        load_masked(phantoms / "datalist.json", pseudo_dir=tmp_path)
    assert [s["case"] for s in load_datalist(phantoms / "datalist.json", cases=["phantom_003"])] == ["phantom_003"]
    with pytest.raises(IchsegError, match=r"no scan for case nobody"):
        load_datalist(phantoms / "datalist.json", cases=["nobody"])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(IchsegError, match="not a JSON file"):
        load_datalist(tmp_path / "broken.json")


# --- tables of slice labels -------------------------------------------------------------------------------------------
HEADING, LINES = "case,slice_number,hemorrhage", [("a", 1, 0), ("a", 2, 1), ("b", 1, 1)]


def table(separator=",", form="{0}{s}{1}{s}{2}", heading=HEADING, end="\n"):
    rows = [form.format(*row, s=separator) for row in LINES]
    return end.join([heading.replace(",", separator), *rows]) + end


@pytest.mark.parametrize(
    "data",
    [
        table().encode(),
        table(";").encode(),
        table("\t").encode(),
        table(form="{0}{s}{1}.0{s}{2}.0").encode(),
        table(";", form="{0}{s}{1},0{s}{2},0").encode(),
        table(heading=HEADING.title()).encode(),
        table(heading="Case,Slice Number,HEMORRHAGE").encode(),
        table(form=" {0} {s} {1}{s}{2} ", heading=HEADING.replace(",", ", ")).encode(),
        table(end="\r\n").encode("utf-8-sig"),
        table().encode("utf-16"),
        ("\n" + table() + "\n\n").encode(),
        table(form='"{0}"{s}"{1}"{s}"{2}"').encode(),
        table().replace(",0\n", ",FALSE\n").replace(",1\n", ",TRUE\n").encode(),
    ],
)
def test_tables_are_read_as_spreadsheets_write_them(data, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    assert read_label_table(path) == ({"a": {1: 0, 2: 1}, "b": {1: 1}}, {"a": "a", "b": "b"})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the table is empty"),
        (HEADING.encode(), "the table is empty"),
        (table(heading="scan,slice_number,hemorrhage").encode(), "line 1: no column 'case'; found scan, slice_number"),
        (table("|").encode(), "line 1: no column 'case'"),
        (table().replace("a,1", "\u00e4,1").encode("latin-1"), "line 2: not UTF-8"),
        (table(form="{0}{s}{1}.5{s}{2}").encode(), "line 2: slice_number must be a whole number, not '1.5'"),
        (table(form="{0}{s}{1}{s}maybe").encode(), "line 2: hemorrhage must be a whole number, not 'maybe'"),
        (table(form="{0}{s}{1}{s}2").encode(), "line 2: hemorrhage must be 0 or 1, not '2'"),
        (table(form="{0}{s}1{s}{2}").encode(), "line 3: slice 1 of case 'a' appears twice"),
        (table(form="{0}{s}{1}").encode(), "line 2: 2 values, but the heading has 3 columns"),
        (table(form="{s}{1}{s}{2}").encode(), "line 2: case is empty"),
        (table(heading="case,case,slice_number,hemorrhage").encode(), "two columns are called 'case'"),
        (table().encode("utf-16-le"), "not a text file|no column"),
    ],
)
def test_tables_that_mean_nothing_are_refused_by_line(data, said, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(IchsegError, match=said) as told:
        read_label_table(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)


def test_patients_are_kept_together(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("case,slice_number,hemorrhage,Patient ID\na,1,0,7.0\na,2,1,\nb,1,1,7\nc,1,0,\n")
    assert read_label_table(path)[1] == {"a": "7", "b": "7", "c": "c"}
    path.write_text("case,slice_number,hemorrhage,patient\na,1,0,7\na,2,1,8\n")
    with pytest.raises(IchsegError, match="line 3: case 'a' is of patient 7 and of 8"):
        read_label_table(path)
    path.write_text("case,slice_number,hemorrhage\na,4,0,1,0\n")
    with pytest.raises(IchsegError, match="line 2: 5 values, but the heading has 3"):
        read_label_table(path)
    path.write_text("sep=;\ncase;slice_number;hemorrhage\na;1;x\n")
    with pytest.raises(IchsegError, match="line 3: hemorrhage must be"):
        read_label_table(path)


def test_a_mask_that_has_lost_its_affine_is_no_truth(phantoms, tmp_path):
    import shutil

    import nibabel as nib

    from ichseg.data import load_datalist, prepare_nifti

    scan = load_datalist(phantoms / "datalist.json")[0]
    (tmp_path / "scans").mkdir()
    (tmp_path / "masks").mkdir()
    shutil.copy(scan["image"], tmp_path / "scans" / "a.nii.gz")
    mask = nib.load(scan["label"])
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj), np.eye(4)), tmp_path / "masks" / "a.nii.gz")
    lines = "\n".join(f"a,{n + 1},{n % 2}" for n in range(mask.shape[2]))
    (tmp_path / "labels.csv").write_text(f"{HEADING}\n{lines}\n")
    with pytest.raises(IchsegError, match="was the mask saved without its affine"):
        prepare_nifti(tmp_path / "scans", tmp_path / "labels.csv", tmp_path / "data", masks=tmp_path / "masks")
