"""Segmenting and measuring from Python gives what the command line gives."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from broken_files import AFFINE, head, image
from conftest import segmenter_file

import ichseg
from ichseg.bundle import bundle_folder, config_values
from ichseg.cli import main
from ichseg.folder.measure_masks import measure_folder
from ichseg.inference.segmenter import OF_A_FOLDER
from ichseg.metrics import without_small_holes, without_small_lesions
from ichseg.networks import SegmenterSettings, read_settings

OPTIONS = {"size": 96, "device": "cpu"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tilted scan and its mask by the command line."""
    folder = tmp_path_factory.mktemp("call")
    affine = AFFINE.copy()
    affine[1, 2] = 1.2
    image(head(), affine).to_filename(folder / "scan.nii.gz")
    assert main(["segment", str(folder / "scan.nii.gz"), str(folder), "--size", "96", "--device", "cpu"]) == 0
    return folder / "scan.nii.gz", folder / "scan_ich.nii.gz"


def same(found, mask):
    truth = nib.load(mask)
    assert found.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(truth.dataobj)) and np.asarray(truth.dataobj).any()
    assert np.array_equal(found.affine, truth.affine)
    assert [int(found.header[code]) for code in ("sform_code", "qform_code")] == [
        int(truth.header[code]) for code in ("sform_code", "qform_code")
    ]


def test_paths_and_images_give_images(made):
    scan, mask = made
    same(ichseg.segment(scan, **OPTIONS), mask)
    same(ichseg.segment(str(scan), **OPTIONS), mask)
    same(ichseg.segment(nib.load(scan), **OPTIONS), mask)
    same(ichseg.segment(nib.Nifti1Image(head(), nib.load(scan).affine, nib.load(scan).header), **OPTIONS), mask)


def test_arrays_give_arrays(made):
    scan, mask = made
    truth, affine = np.asarray(nib.load(mask).dataobj), nib.load(scan).affine
    for array in (head(), head().astype(np.float64), np.asfortranarray(head()), head()[..., None]):
        found = ichseg.segment(array, affine, **OPTIONS)
        assert found.dtype == np.uint8 and found.shape == array.shape
        assert np.array_equal(found.reshape(truth.shape), truth)
    with pytest.raises(ichseg.ScanError, match="needs its affine"):
        ichseg.segment(head(), **OPTIONS)
    with pytest.raises(ichseg.ScanError, match="expected one 3-D volume"):
        ichseg.segment(head()[..., 0], affine, **OPTIONS)
    with pytest.raises(ValueError, match="output requires"):
        ichseg.segment(head(), affine, output="x.nii.gz", **OPTIONS)


def test_files_are_written_where_asked(made, tmp_path):
    scan, mask = made
    for given in (scan, nib.load(scan)):
        path = ichseg.segment(given, output=tmp_path / "sub" / "m.nii.gz", **OPTIONS)
        assert path.read_bytes() == mask.read_bytes()
        path.unlink()


def test_probabilities_and_options(made):
    scan, mask = made
    likely = np.asarray(ichseg.segment(scan, probabilities=True, **OPTIONS).dataobj)
    assert likely.dtype == np.float32 and likely.min() >= 0 and likely.max() <= 1
    fitted = read_settings(bundle_folder("ich_segmentation") / "models" / "model.pt", SegmenterSettings)
    made_mask = nib.load(mask)
    found = np.asarray(made_mask.dataobj) > 0
    large = without_small_lesions(likely > fitted.threshold, made_mask.affine, fitted.min_volume_ml)
    assert found.any()
    assert np.array_equal(found, without_small_holes(large, made_mask.affine, fitted.fill_holes_mm2))
    for threshold in (fitted.threshold, 0.1):  # specks, holes and all
        low = ichseg.segment(scan, threshold=threshold, min_volume_ml=0.0, fill_holes_mm2=0, **OPTIONS)
        assert np.array_equal(likely > threshold, np.asarray(low.dataobj) > 0)
    assert not np.asarray(ichseg.segment(scan, min_volume_ml=1e6, **OPTIONS).dataobj).any()
    with pytest.raises(TypeError, match="'thresold' is not a key"):
        ichseg.segment(scan, thresold=0.3)
    assert set(OF_A_FOLDER) <= set(config_values("ich_segmentation", "inference.yaml"))
    with pytest.raises(TypeError, match="'save_probabilities' is for runs over a folder"):
        ichseg.segment(scan, save_probabilities=True)
    with pytest.raises(ichseg.IchsegError, match="remove_shell: expected true or false, not 'false'"):
        ichseg.segment(scan, remove_shell="false")


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no scan")
    with pytest.raises(ichseg.ScanError, match=r"a\.nii\.gz: named \.gz, but not a gzip file"):
        ichseg.segment(tmp_path / "a.nii.gz", **OPTIONS)
    with pytest.raises(ichseg.ScanError, match="no voxel has a finite value"):
        ichseg.segment(np.full((8, 8, 4), np.nan), np.eye(4), **OPTIONS)
    with pytest.raises(ValueError, match=r"^the threshold must be between 0 and 1, not 3$"):
        ichseg.segment(head(), AFFINE, threshold=3, **OPTIONS)
    with pytest.raises(ichseg.IchsegError, match="output must be a"):
        ichseg.segment(tmp_path / "a.nii.gz", output=tmp_path / "x.png")
    for call in (ichseg.measure, ichseg.segment):
        with pytest.raises(TypeError, match="expected a path, a nibabel image or an array, not list"):
            call([[1]])
    bare = nib.Nifti1Image(head(), None)  # no affine: the grid of its voxel sizes
    with pytest.warns(UserWarning, match="left and right are unreliable"):
        assert ichseg.segment(bare, **OPTIONS).shape == head().shape
    assert "side" not in ichseg.measure(bare)
    with pytest.raises(ichseg.IchsegError, match="weight file not found"):
        ichseg.segment(head(), AFFINE, weights=tmp_path / "none.pt")


def test_measuring_from_python_and_the_command_line(made, tmp_path, capsys):
    scan, mask = made
    told = ichseg.measure(mask, image=scan)
    voxel_ml = abs(np.linalg.det(nib.load(mask).affine[:3, :3])) / 1000
    assert told["volume_ml"] == pytest.approx(np.asarray(nib.load(mask).dataobj).sum() * voxel_ml, abs=1e-3)
    truth = nib.load(mask)
    assert ichseg.measure(truth) == ichseg.measure(np.asarray(truth.dataobj), truth.affine) == ichseg.measure(mask)
    assert set(told) - set(ichseg.measure(mask)) <= {"side"}
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "scan_ich.nii.gz").write_bytes(mask.read_bytes())
    (tmp_path / "masks" / "bad.nii.gz").write_bytes(b"no mask")
    words = ["measure", str(tmp_path / "masks"), "--images", str(scan.parent), "--output", str(tmp_path / "out")]
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "scan_ich" not in text and f"{told['volume_ml']}" in text and "bad.nii.gz: named .gz" in text
    rows = (tmp_path / "out" / "measures.csv").read_text().splitlines()
    assert rows[0].startswith("case,status,volume_ml,lesions,largest_ml,largest_slice,side,a_cm") and len(rows) == 3
    assert rows[2].startswith("scan,ok,")  # the case that results.csv of the scan has
    assert main(["measure", str(tmp_path / "none")]) == 2


def test_scans_of_masks_are_found_and_compared(made, tmp_path):
    """The side comes from the scan of the mask: whatever its ending, and only from one on the same grid."""
    scan, mask = made
    masks, scans = tmp_path / "masks", tmp_path / "scans"
    for folder in (masks, scans):
        folder.mkdir()
    for name in ("UP_ich", "moved_ich", "UP", "other"):
        (masks / f"{name}.nii.gz").write_bytes(mask.read_bytes())
    nib.load(scan).to_filename(scans / "UP.nii.gz")
    (scans / "UP.nii.gz").rename(scans / "UP.NII.GZ")
    moved = nib.load(scan).affine.copy()
    moved[0, 3] += 3
    image(head(), moved).to_filename(scans / "moved.nii.gz")
    found = {row["case"]: row for row in measure_folder(masks, images=scans).rows}
    assert set(found) == {"UP_ich", "UP", "moved", "other"}
    side = ichseg.measure(mask, image=scan)["side"]
    assert found["UP_ich"]["side"] == found["UP"]["side"] == side and found["UP"]["status"] == "ok"
    for name, said in (("moved", "not on the same grid"), ("other", "no scan with this name")):
        assert found[name]["status"] == "flagged" and "side" not in found[name] and said in found[name]["message"]
    with pytest.warns(UserWarning, match="are not on the same grid"):
        assert "side" not in ichseg.measure(mask, image=scans / "moved.nii.gz")
    with pytest.warns(UserWarning, match="are not on the same grid"):
        assert "side" not in ichseg.measure(mask, image=nib.Nifti1Image(head()[:-1], nib.load(scan).affine))


def test_masks_that_are_none_are_told(made, tmp_path):
    scan, mask = made
    assert {row["status"] for row in measure_folder(scan).rows} == {"flagged"}
    with pytest.warns(UserWarning, match="a scan, not a mask"):
        ichseg.measure(scan)
    array = np.asarray(nib.load(mask).dataobj)
    volume = ichseg.measure(mask)["volume_ml"]
    for kind, code in ((np.uint16, 65535), (np.int32, 100000), (np.float32, 255), (np.uint8, 3)):
        image(array.astype(kind) * kind(code), nib.load(mask).affine).to_filename(tmp_path / "m.nii")
        assert ichseg.measure(tmp_path / "m.nii")["volume_ml"] == volume
    with pytest.warns(UserWarning, match="values below 0, down to -1"):
        assert ichseg.measure(array.astype(np.int16) * 2 - 1, nib.load(mask).affine)["volume_ml"] == volume


def test_doubts_are_warnings(made):
    with pytest.warns(UserWarning, match="scan.nii.gz: tilted gantry"):
        ichseg.segment(made[0], **OPTIONS)


def test_importing_the_package_imports_no_torch():
    code = "import ichseg, sys; assert not {'torch', 'monai'} & set(sys.modules); assert callable(ichseg.segment)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_that_were_replaced_are_read_again(made, tmp_path):
    scan, _ = made
    weights = tmp_path / "model.pt"
    found = []
    for threshold in (0.0, 1.0):
        segmenter_file(weights, size=64, threshold=threshold, min_volume_ml=0)
        found.append(np.asarray(ichseg.segment(scan, weights=weights, device="cpu").dataobj).any())
    assert found == [True, False]
