"""RSNA 2019: a made-up release of the real layout becomes scans with slice labels."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
import SimpleITK

from ichseg.cli import main
from ichseg.data import load_datalist, prepare_rsna
from ichseg.data.rsna import FOLDER, TABLE
from ichseg.errors import IchsegError

KINDS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")


def write_slice(file, value, patient, series, z, tilt=0.0):
    rows, columns = 24, 20
    array = np.full((rows, columns), value, np.int16)
    array[:6, :5] = value + 100  # a corner: first rows, first columns
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.6))
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    down = [0, np.cos(tilt), -np.sin(tilt)]
    for key, text in {
        "0008|0060": "CT", "0010|0020": patient, "0020|000d": f"{series}.1", "0020|000e": series,
        "0008|0018": f"{series}.{z + 500}", "0020|0032": f"-120.0\\-130.0\\{z}",
        "0020|0037": "\\".join(f"{v:.6f}" for v in [1, 0, 0, *down]), "0028|1052": "0", "0028|1053": "1",
    }.items():  # fmt: skip
        image.SetMetaData(key, text)
    writer.SetFileName(str(file))
    writer.Execute(image)


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "download"
    (folder / FOLDER).mkdir(parents=True)
    table = []
    for scan in range(6):
        for place, z in enumerate([10, 0, 15, 5]):  # files are in no order
            name = f"ID_{scan}{place:02d}aa"
            tilt = 0.3 if scan == 2 else 0.0
            write_slice(folder / FOLDER / f"{name}.dcm", 30 + z, f"ID_p{scan // 2}", f"1.2.{scan + 3}", z, tilt)
            bleeds = scan % 2 and z >= 10
            table += [[f"{name}_{kind}", int(bleeds and kind in ("subdural", "any"))] for kind in KINDS]
    with (folder / TABLE).open("w", newline="") as file:
        csv.writer(file).writerows([["ID", "Label"], *table, *table[:6]])  # some rows are there twice
    return folder


def test_slices_become_scans_in_the_order_of_their_position(release, tmp_path, capsys):
    assert main(["prepare", "rsna", str(release), str(tmp_path / "data")]) == 0
    assert "volumes: 6, slices: 24, positive slices: 6, patients: 3" in capsys.readouterr().out
    scans = load_datalist(tmp_path / "data" / "datalist.json", require=("slice_labels",))
    assert [scan["slice_labels"] for scan in scans] == [[0] * 4, [0, 0, 1, 1]] * 3
    folds = {}
    for scan in scans:
        folds.setdefault(scan["patient"], set()).add(scan["fold"])
    assert all(len(found) == 1 for found in folds.values())
    image = nibabel.load(scans[1]["image"])
    voxels = image.get_fdata()
    assert voxels.shape == (20, 24, 4) and voxels[10, 10].tolist() == [30, 35, 40, 45] and voxels[0, 0, 0] == 130
    expected = np.diag([-0.5, -0.6, 5, 1])
    expected[:3, 3] = [120, 130, 0]  # DICOM's x and y run against RAS
    np.testing.assert_allclose(image.affine, expected, atol=1e-5)
    tilted = nibabel.load(scans[2]["image"]).affine
    np.testing.assert_allclose(tilted[:3, 2], [0, 0, 5], atol=1e-5)  # steps are along the table, slices are not upright
    assert tilted[2, 1] != 0
    rows = list(csv.DictReader((tmp_path / "data" / "slice_labels.csv").open()))
    assert [row["SDH"] for row in rows[4:8]] == ["0", "0", "1", "1"] and rows[4]["IPH"] == "0"
    assert json.loads((tmp_path / "data" / "datalist.json").read_text())["name"] == "RSNA 2019"


def test_what_is_broken_is_named_and_the_rest_goes_on(release, tmp_path):
    said = []
    (release / FOLDER / "ID_000aa.dcm").write_bytes(b"nothing")
    write_slice(release / FOLDER / "ID_101aa.dcm", 30, "ID_p0", "1.2.4", 3)  # one step is another
    counts = prepare_rsna(release, tmp_path / "data", warn=said.append)
    assert counts["volumes"] == 4
    assert "ID_000aa.dcm: not a DICOM slice" in said[0] and any("missing or duplicated" in one for one in said)
    few = prepare_rsna(release, tmp_path / "few", scans=2)
    assert few["volumes"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / TABLE).unlink(), r"stage_2_train\.csv: file not found"),
        (lambda f: (f / TABLE).write_text("a,b\n"), "line 1: the heading must be ID,Label"),
        (lambda f: (f / TABLE).write_text("ID,Label\nID_1_any,2\n"), "line 2: expected"),
        (lambda f: (f / TABLE).write_text("ID,Label\nID_1_any,1\n"), "ID_1 has no row for"),
        (lambda f: (f / FOLDER / "ID_000aa.dcm").unlink(), r"ID_000aa\.dcm: file not found"),
    ],
)
def test_another_layout_is_refused(release, tmp_path, change, said):
    change(release)
    with pytest.raises(IchsegError, match=said):
        prepare_rsna(release, tmp_path / "data")
    assert not (tmp_path / "data").exists()
