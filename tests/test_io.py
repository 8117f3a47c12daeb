"""Reading is checked, writing keeps the geometry and is atomic."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from ichseg.errors import IchsegError, ScanError
from ichseg.io import (
    atomic_path,
    find_scans,
    read_mask,
    read_volume,
    scan_name,
    slice_axis,
    spacing_mm,
    staged_folder,
    write_like,
    write_volume,
)
from ichseg.metrics import hemorrhage_volume

OBLIQUE = np.array([[-0.5, 0, 0, 125], [0, -0.47, 0.9, -96], [0, 0.16, 5.0, -63], [0, 0, 0, 1.0]])


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    array = np.arange(4 * 5 * 3, dtype=np.int16).reshape(4, 5, 3) - 1000
    write_volume(path, array, np.diag([-40, -40, 50, 1]))
    return path


def test_round_trip(scan):
    volume = read_volume(scan)
    assert volume.array.dtype == np.float32 and volume.array.min() == -1000 and volume.array.shape == (4, 5, 3)
    np.testing.assert_allclose(volume.affine, np.diag([-40, -40, 50, 1]))
    doubts = [flag.partition(":")[0] for flag in volume.flags]
    assert doubts == ["almost no voxels have the gray level of brain", "slices 50 mm apart"]


def broken(kind, data):
    return {
        "empty": b"",
        "text": b"not a scan at all" * 40,
        "truncated gzip": data[: len(data) // 2],
        "wrong checksum": data[:-6] + bytes([data[-6] ^ 255]) + data[-5:],
        "truncated nifti": gzip.decompress(data)[:-10],
        "negative size": gzip.decompress(data)[:42] + b"\xff\xff" + gzip.decompress(data)[44:],
        "huge size": gzip.decompress(data)[:42] + b"\xff\x7f\xff\x7f\xff\x7f" + gzip.decompress(data)[48:],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "text", "truncated gzip", "wrong checksum", "truncated nifti", "negative size", "huge size"],
)
def test_broken_files_are_named(scan, kind):
    scan.write_bytes(broken(kind, scan.read_bytes()))
    with pytest.raises(ScanError, match=r"scan\.nii\.gz: "):
        read_volume(scan)


def test_absent_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.nii", tmp_path):
        with pytest.raises(ScanError, match=str(path)):
            read_volume(path)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 4, 2, 3), np.int16), "one 3-D volume"),
        (np.zeros((4, 4), np.int16), "one 3-D volume"),
        (np.full((2, 2, 2), np.nan, np.float32), "no voxel has a finite value"),
        (np.ones((2, 2, 2), np.complex64), "not Hounsfield units"),
    ],
)
def test_volumes_that_are_no_ct_are_refused(tmp_path, array, told):
    path = tmp_path / "odd.nii"
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(ScanError, match=told):
        read_volume(path)


def test_what_can_be_repaired_is_flagged(tmp_path):
    path = tmp_path / "odd.nii.gz"
    array = np.zeros((4, 4, 3, 1), np.float32)
    array[0, 0, 0] = np.nan
    image = nib.Nifti1Image(array, np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(nib.Nifti1Image(array, None, image.header), path)
    volume = read_volume(path)
    assert volume.array.shape == (4, 4, 3) and volume.array[0, 0, 0] == -1000
    assert "1 NaN or infinite voxels set to air" in volume.flags
    assert any("left and right are unreliable" in flag for flag in volume.flags)


def test_big_endian_and_4d_are_read(tmp_path):
    path = tmp_path / "big.nii"
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(np.full((3, 3, 2), -7, ">i2"), np.diag([1, 1, 5, 1]), header), path)
    assert (read_volume(path).array == -7).all()


def test_gantry_tilt_keeps_its_shear_and_volume(tmp_path):
    path = tmp_path / "tilt.nii.gz"
    write_volume(path, np.zeros((4, 4, 3), np.int16), OBLIQUE)
    affine = read_volume(path).affine
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-6)
    assert slice_axis(affine) == 2
    one_voxel_ml = hemorrhage_volume(np.ones((1, 1, 1)), affine)["volume_ml"]
    assert one_voxel_ml == pytest.approx(abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000)
    assert np.prod(spacing_mm(affine)) / 1000 > 1.01 * one_voxel_ml


def test_slice_axis_is_found_wherever_it_is():
    affine = np.array([[0, 0.5, 0, 0], [0, 0, -0.5, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    assert slice_axis(affine) == 0


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (1, 1), (0, 0)])
def test_masks_keep_forms_codes_and_shape(tmp_path, qform, sform):
    reference, mask = tmp_path / "scan.nii.gz", tmp_path / "out" / "mask.nii.gz"
    image = nib.Nifti1Image(np.zeros((4, 5, 3, 1), np.int16), np.diag([-0.5, -0.5, 5, 1]))
    image.set_qform(np.diag([-0.5, -0.5, 5, 1]), qform)
    image.set_sform(OBLIQUE, sform)
    image.header.set_slope_inter(2, -1024)
    nib.save(image, reference)
    array = np.zeros((4, 5, 3), np.uint8)
    array[1, 2, 1] = 1
    write_like(mask, array, reference)
    before, after = nib.load(reference), nib.load(mask)
    assert after.shape == (4, 5, 3, 1) and after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(after.affine, before.affine)
    for key in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x", "pixdim"):
        np.testing.assert_array_equal(after.header[key], before.header[key])
    assert read_mask(mask)[0].sum() == 1
    with pytest.raises(ScanError, match="the result has shape"):
        write_like(mask, np.zeros((4, 4, 3), np.uint8), reference)


def test_same_voxels_give_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, np.ones((3, 3, 3), np.int16), np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_mask_holds_whole_codes(tmp_path):
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 0.5, np.float32), np.eye(4)), tmp_path / "p.nii")
    with pytest.raises(ScanError, match="integer label codes"):
        read_mask(tmp_path / "p.nii")
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), np.inf, np.float32), np.eye(4)), tmp_path / "p.nii")
    with pytest.raises(ScanError, match="integer label codes"):
        read_mask(tmp_path / "p.nii")


@pytest.mark.parametrize("kind", ["u1", "i2"])
def test_masks_that_were_saved_scaled(tmp_path, kind):
    """nibabel scales floats to the range of the header's type: 1 becomes 255 times 0.00392."""
    truth = np.zeros((6, 5, 4))
    truth[1:3, 1:4, 2] = 1
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    nib.save(nib.Nifti1Image(truth, np.eye(4), header), tmp_path / "m.nii")
    assert nib.load(tmp_path / "m.nii").dataobj.slope < 0.01
    assert np.array_equal(read_mask(tmp_path / "m.nii")[0], truth)


def test_extensions_of_a_header_stay_with_the_scan(tmp_path):
    """They may name the patient."""
    scan = nib.Nifti1Image(np.zeros((4, 5, 3), np.int16), np.diag([-0.5, -0.5, 5, 1]))
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"patient name" * 400))
    nib.save(scan, tmp_path / "scan.nii.gz")
    write_like(tmp_path / "mask.nii.gz", np.ones((4, 5, 3), np.uint8), tmp_path / "scan.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert not mask.header.extensions and np.asarray(mask.dataobj).all() and np.array_equal(mask.affine, scan.affine)
    assert b"patient name" not in gzip.decompress((tmp_path / "mask.nii.gz").read_bytes())


def test_interrupted_writing_leaves_nothing(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "new") as staged:
        (staged / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(IchsegError, match="already exists and is not empty"), staged_folder(tmp_path):
        pass


def test_find_scans_leaves_out_hidden_files_and_own_outputs(tmp_path):
    for name in ("a.nii.gz", "sub/b.nii", "._a.nii.gz", "a_ich.nii.gz", "notes.txt", "out/a_ich.nii.gz", "out/c.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write_volume(tmp_path / "s.nii.gz", np.zeros((2, 2, 2), np.int16), np.eye(4))
    write_like(tmp_path / "a_ich.nii.gz", np.zeros((2, 2, 2), np.uint8), tmp_path / "s.nii.gz")
    (tmp_path / "patient_ich.nii.gz").write_bytes((tmp_path / "s.nii.gz").read_bytes())  # a scan of that name
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [str(p.relative_to(tmp_path)) for p in find_scans(tmp_path, exclude=tmp_path / "out")]
    assert found == ["a.nii.gz", "patient_ich.nii.gz", "s.nii.gz", "sub/b.nii"]
    assert scan_name("x/ID_1.nii.gz") == "ID_1"
    with pytest.raises(IchsegError, match="no such file or folder"):
        find_scans(tmp_path / "absent")
    with pytest.raises(IchsegError, match=r"no \.nii"):
        find_scans(tmp_path / "sub", exclude=None) if (tmp_path / "sub" / "b.nii").unlink() is None else None


def test_folders_that_cannot_be_written_to_are_named(tmp_path, monkeypatch):
    from ichseg.io.folder import check_output_folder

    check_output_folder(tmp_path)
    monkeypatch.setattr("ichseg.io.folder.os.access", lambda *_: False)  # nobody refuses root
    with pytest.raises(IchsegError, match=r"cannot be written to \(permission denied\)"):
        check_output_folder(tmp_path)


def test_a_named_file_of_another_format_is_told_as_in_a_folder(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004")
    with pytest.raises(IchsegError, match=r"not a .nii or .nii.gz file but NRRD: convert to NIfTI first"):
        find_scans(tmp_path / "a.nrrd")
