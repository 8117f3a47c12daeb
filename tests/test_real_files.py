"""Files as converters and scanners leave them: units, forms, copies, planes, and what is no scan at all."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from forked import run_module
from real_files import make, phantom, save

import ichseg
from ichseg.cli import main
from ichseg.errors import NotAScan
from ichseg.folder import list_scans
from ichseg.folder.measure_masks import measure_folder
from ichseg.io import read_volume, write_like


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder of scans, rows of the results by case, and what was printed."""
    folder = tmp_path_factory.mktemp("real")
    make(folder / "scans")
    done = run_module(
        ["ichseg", "segment", str(folder / "scans"), str(folder / "masks"), "--device", "cpu", "--size", "96"]
    )
    assert done.returncode == 1, done.stderr  # three files that begin like DICOM and end there
    with (folder / "masks" / "results.csv").open(newline="") as stream:
        return folder, {row["case"]: row for row in csv.DictReader(stream)}, done.stderr


def test_units_of_the_header_are_honored(ran):
    folder, rows, _ = ran
    truth = rows["head"]
    assert truth["status"] == "ok" and 15 < float(truth["volume_ml"]) < 40
    for name in ("micron", "meter"):
        assert (rows[name]["status"], rows[name]["volume_ml"]) == ("ok", truth["volume_ml"])
        mask, scan = (nib.load(folder / f"{where}.nii.gz") for where in (f"masks/{name}_ich", f"scans/{name}"))
        assert np.array_equal(mask.get_fdata(), nib.load(folder / "masks/head_ich.nii.gz").get_fdata())
        np.testing.assert_allclose(mask.affine, scan.affine)
        assert mask.header.get_xyzt_units()[0] == name
    known = [
        ichseg.measure(folder / "scans" / "masks" / f"{n}.nii.gz")["volume_ml"] for n in ("head", "micron", "meter")
    ]
    assert known[0] > 10 and known[1:] == pytest.approx([known[0]] * 2, rel=1e-3)


def test_forms_that_contradict_each_other_give_no_side(ran):
    _, rows, _ = ran
    assert rows["sides"]["status"] == "flagged" and "disagree on left and right" in rows["sides"]["message"]
    assert rows["head"]["side"] in ("left", "right") and rows["sides"]["side"] == ""


def test_unequal_distances_are_told_by_the_copy(ran):
    folder, rows, _ = ran
    assert rows["uneven"]["status"] == "flagged" and "unevenly spaced" in rows["uneven"]["message"]
    assert rows["uneven_Eq_1"]["status"] == "skipped" and "counted twice" in rows["uneven_Eq_1"]["message"]
    assert rows["tilted"]["status"] == "ok" and rows["tilted_Tilt_1"]["status"] == "skipped"
    assert rows["alone_Eq_1"]["status"] == "ok"
    assert [scan for scan in list_scans(folder / "scans" / "uneven_Eq_1.nii.gz") if "skip" in scan] == []
    assert any("unevenly spaced" in flag for flag in read_volume(folder / "scans" / "uneven.nii.gz").flags)


def test_measuring_masks_of_both_says_so(ran):
    folder, _, _ = ran
    for name in ("uneven", "uneven_Eq_1", "alone_Eq_1"):
        (folder / "both").mkdir(exist_ok=True)
        (folder / "both" / f"{name}_ich.nii.gz").write_bytes((folder / "masks" / "uneven_ich.nii.gz").read_bytes())
    rows = {row["case"]: row for row in measure_folder(folder / "both").rows}
    assert "counted twice" in rows["uneven_Eq_1"]["message"] and rows["uneven_Eq_1"]["status"] == "flagged"
    assert rows["uneven"]["status"] == rows["alone_Eq_1"]["status"] == "ok"


def test_coronal_slices_are_segmented_as_acquired_and_flagged(ran):
    folder, rows, _ = ran
    row = rows["coronal"]
    assert row["status"] == "flagged" and "not an axial scan? The mask is unreliable" in row["message"]
    _, label, affine = phantom(slices=128)
    true_ml = ichseg.measure(label, affine)["volume_ml"]
    assert float(row["volume_ml"]) == pytest.approx(true_ml, rel=0.3)
    assert nib.load(folder / "masks" / "coronal_ich.nii.gz").shape == (128, 128, 20)


@pytest.mark.parametrize(
    ("name", "said"),
    [("scout", "one sagittal slice"), ("dose_report", "an RGB picture"), ("head_ROI1", "a region of interest")],
)
def test_what_is_no_scan_is_skipped_in_plain_words(ran, name, said):
    folder, rows, _ = ran
    assert rows[name]["status"] == "skipped" and said in rows[name]["message"]
    assert not (folder / "masks" / f"{name}_ich.nii.gz").exists()
    with pytest.raises(NotAScan, match=said):
        read_volume(folder / "scans" / f"{name}.nii.gz")


def test_other_formats_are_counted(ran, tmp_path, monkeypatch, capsys):
    _, rows, said = ran
    assert all(rows[f"series/I{k}"]["message"] == f"I{k}: not a DICOM image" for k in range(3))
    assert "ignored 1 NRRD file: convert to NIfTI first" in said
    (tmp_path / "a.dcm").write_bytes(b"")
    assert main(["segment", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "pip install" not in "".join(capsys.readouterr()), "it is installed"
    for module in ("ichseg.io.other_files", "ichseg.folder.listing"):
        monkeypatch.setattr(f"{module}.has_dicom", lambda: False)
    assert main(["segment", str(tmp_path), str(tmp_path / "out")]) == 2
    assert '1 DICOM file: pip install "ichseg[dicom]" to read' in capsys.readouterr().err
    (tmp_path / "b.mha").write_bytes(b"")
    with pytest.raises(
        ichseg.IchsegError, match=r"no \.nii or \.nii\.gz file in this folder; 1 DICOM and 1 MetaImage files: convert"
    ):
        list_scans(tmp_path)


def test_scans_without_the_slice_distance_of_a_file_are_left_alone(tmp_path):
    image, _, affine = phantom()
    save(tmp_path / "a_1.nii.gz", image, affine)
    save(tmp_path / "a.nii.gz", image, affine)
    assert all("skip" not in scan for scan in list_scans(tmp_path))


# --- several inputs, one output ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def few(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    image, _, affine = phantom(size=64, slices=6)
    for number, name in enumerate(("a", "b", "sub/a")):
        save(folder / f"{name}.nii.gz", (image + number).astype(np.int16), affine)
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def run(*words) -> int:
    return main(["segment", *map(str, words), "--device", "cpu", "--size", "64", "--no-report"])


def test_files_named_one_by_one_keep_their_rows(few, tmp_path):
    out = tmp_path / "out"
    assert run(few / "a.nii.gz", out) == 0 and run(few / "b.nii.gz", out) == 0
    assert sorted(row["case"] for row in rows_of(out).values()) == ["a", "b"]
    before = (out / "a_ich.nii.gz").read_bytes()
    assert run(few / "sub" / "a.nii.gz", out) == 1  # another scan of the same name: nothing is overwritten
    assert (out / "a_ich.nii.gz").read_bytes() == before
    found = rows_of(out)
    assert found[str(few / "a.nii.gz")]["status"] in ("ok", "flagged")
    assert "same output name as" in found[str(few / "sub" / "a.nii.gz")]["message"]
    assert run(few / "b.nii.gz", out) == 0 and len(rows_of(out)) == 3  # the failure is not this run's
    assert run(few, out) == 0
    assert sorted(row["case"] for row in rows_of(out).values()) == ["a", "b", "sub/a"]


def test_several_inputs_and_patterns(few, tmp_path):
    assert run(few / "a.nii.gz", few / "sub", tmp_path / "one") == 0
    assert sorted(row["case"] for row in rows_of(tmp_path / "one").values()) == ["a", "sub/a"]
    assert (tmp_path / "one" / "sub" / "a_ich.nii.gz").is_file()
    assert run(few / "b.nii.gz", few / "sub" / "a.nii.gz", tmp_path / "flat") == 0  # as one by one
    assert sorted(row["case"] for row in rows_of(tmp_path / "flat").values()) == ["a", "b"]
    assert (tmp_path / "flat" / "a_ich.nii.gz").is_file()
    assert run(few / "a.nii.gz", few / "sub" / "a.nii.gz", tmp_path / "apart") == 0
    assert sorted(row["case"] for row in rows_of(tmp_path / "apart").values()) == ["a", "sub/a"]
    assert run(few / "*.nii.gz", tmp_path / "two") == 0
    assert sorted(row["case"] for row in rows_of(tmp_path / "two").values()) == ["a", "b"]
    assert run(few / "none*.nii.gz", tmp_path / "three") == 2


def test_a_file_is_no_output_folder(few, tmp_path, capsys):
    assert run(few / "a.nii.gz", tmp_path / "mask.nii.gz") == 2
    assert "OUTPUT is a folder" in capsys.readouterr().err and not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="file names of any bytes")
def test_names_that_cannot_be_printed_end_nothing(few, tmp_path):
    odd = tmp_path / "scans"
    odd.mkdir()
    good = (few / "a.nii.gz").read_bytes()
    for name, data in ((b"caf\xe9.nii.gz", good), ("größe.nii.gz".encode(), good), (b"bad\xe9.nii.gz", b"x")):
        Path(__import__("os").fsdecode(bytes(odd) + b"/" + name)).write_bytes(data)
    words = [
        sys.executable,
        "-m",
        "ichseg",
        "segment",
        str(odd),
        str(tmp_path / "out"),
        "--size",
        "64",
        "--device",
        "cpu",
    ]
    environment = {**__import__("os").environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert sorted(row["status"] for row in rows_of(tmp_path / "out").values()).count("failed") == 1
    assert len(list((tmp_path / "out").glob("*_ich.nii.gz"))) == 2


# --- found in review --------------------------------------------------------------------------------------------------
def test_a_link_keeps_its_name(few, tmp_path):
    (tmp_path / "s1.nii.gz").symlink_to(few / "a.nii.gz")
    assert run(tmp_path / "s1.nii.gz", tmp_path / "out") == 0
    assert [row["case"] for row in rows_of(tmp_path / "out").values()] == ["s1"]


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, -1, 1, 1])])
def test_a_lost_affine_is_told_and_gives_no_side(affine, tmp_path):
    image, label, right = phantom()
    save(tmp_path / "scan.nii.gz", image, affine)
    save(tmp_path / "mask.nii.gz", label, affine)
    assert any("lost its affine" in flag for flag in read_volume(tmp_path / "scan.nii.gz").flags)
    for images in (None, tmp_path / "scan.nii.gz"):
        with pytest.warns(UserWarning, match="lost its affine"):
            assert "side" not in ichseg.measure(tmp_path / "mask.nii.gz", image=images)
    save(tmp_path / "fine.nii.gz", label, right)
    assert ichseg.measure(tmp_path / "fine.nii.gz")["volume_ml"] > 10


@pytest.mark.parametrize(
    "copy", ["x_Eq_1.nii.gz", "x_eq_1.nii.gz", "x_Eq_2.nii", "X_Tilt_Eq_1.NII.GZ", "x_Tilt_Eq_3.nii"]
)
def test_copies_by_other_names_tell_too(copy, tmp_path):
    image, _, affine = phantom()
    save(tmp_path / "x.nii.gz", image, affine)
    (tmp_path / copy).write_bytes((tmp_path / "x.nii.gz").read_bytes())
    assert any("unevenly spaced" in flag for flag in read_volume(tmp_path / "x.nii.gz").flags)


def test_a_copy_of_a_copy_is_not_counted_twice(tmp_path):
    image, _, affine = phantom()
    for name in ("x_Tilt_1", "x_Tilt_Eq_1"):
        save(tmp_path / f"{name}.nii.gz", image, affine)
    assert ["skip" in scan for scan in list_scans(tmp_path)] == [False, True]
    assert any("unevenly spaced" in flag for flag in read_volume(tmp_path / "x_Tilt_1.nii.gz").flags)


@pytest.mark.parametrize("original", ["x.NII.GZ", "x.Nii"])
def test_a_copy_is_known_whatever_letters_its_original_ends_in(tmp_path, original):
    for name in (original, "x_Eq_1.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    assert {scan["image"]: scan.get("skip", "") for scan in list_scans(tmp_path)} == {
        str(tmp_path / original): "",
        str(tmp_path / "x_Eq_1.nii.gz"): f"a copy of {original}, interpolated to even slice spacing; skipped, so "
        "that the patient is not counted twice",
    }


def test_a_mask_that_is_named_is_done(tmp_path):
    image, _, affine = phantom()
    save(tmp_path / "a.nii.gz", image, affine)
    write_like(tmp_path / "a_ich.nii.gz", np.zeros(image.shape, np.uint8), tmp_path / "a.nii.gz")
    one, several = tmp_path / "a_ich.nii.gz", [tmp_path, tmp_path / "a_ich.nii.gz"]
    assert [scan.get("skip") for scan in list_scans(tmp_path, tmp_path / "out")] == [
        None,
        "a mask written by ichseg, not a scan",
    ]
    for inputs in (one, several):
        assert all("skip" not in scan for scan in list_scans(inputs, tmp_path / "out"))
