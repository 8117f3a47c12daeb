"""Segmenting and measuring from Python gives what the command line gives."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from broken_files import AFFINE, head, image

import ichseg
from ichseg.cli import main

OPTIONS = {"size": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tilted scan and its mask by the command line."""
    folder = tmp_path_factory.mktemp("call")
    affine = AFFINE.copy()
    affine[1, 2] = 1.2
    image(head(), affine).to_filename(folder / "scan.nii.gz")
    assert main(["segment", str(folder / "scan.nii.gz"), str(folder), "--size", "64", "--device", "cpu"]) == 0
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
    with pytest.raises(ValueError, match="output goes with"):
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
    assert np.array_equal(likely > 0.5, np.asarray(nib.load(mask).dataobj) > 0)
    low = np.asarray(ichseg.segment(scan, threshold=0.1, **OPTIONS).dataobj) > 0
    assert np.array_equal(likely > 0.1, low)
    assert not np.asarray(ichseg.segment(scan, min_volume_ml=1e6, **OPTIONS).dataobj).any()
    with pytest.raises(TypeError, match="'thresold' is not a value"):
        ichseg.segment(scan, thresold=0.3)


def test_bad_input_is_one_line(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no scan")
    with pytest.raises(ichseg.ScanError, match=r"a\.nii\.gz: named \.gz, but not a gzip file"):
        ichseg.segment(tmp_path / "a.nii.gz", **OPTIONS)
    with pytest.raises(ichseg.ScanError, match="no voxel has a finite value"):
        ichseg.segment(np.full((8, 8, 4), np.nan), np.eye(4), **OPTIONS)
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
    assert "scan_ich" in text and f"{told['volume_ml']}" in text and "named .gz" in text
    rows = (tmp_path / "out" / "measures.csv").read_text().splitlines()
    assert rows[0].startswith("case,status,volume_ml,lesions,largest_ml,largest_slice,side,a_cm") and len(rows) == 3
    assert main(["measure", str(tmp_path / "none")]) == 2


def test_importing_the_package_imports_no_torch():
    code = "import ichseg, sys; assert not {'torch', 'monai'} & set(sys.modules); assert callable(ichseg.segment)"
    subprocess.run([sys.executable, "-c", code], check=True)
