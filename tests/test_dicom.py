"""DICOM in: what belongs together, in which order, where it lies, what it holds, and what is left out and why."""

from __future__ import annotations

import csv
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")

from broken_files import head  # noqa: E402
from conftest import segmenter_file  # noqa: E402
from dicom_files import image, save_enhanced, save_series, tilted  # noqa: E402

from ichseg.cli import main  # noqa: E402
from ichseg.data import load_datalist  # noqa: E402
from ichseg.dicom import choose, find_sources, list_series, read_instances, read_stack, stacks, write_scan  # noqa: E402
from ichseg.dicom.choice import is_sharp  # noqa: E402
from ichseg.errors import IchsegError, ScanError  # noqa: E402
from ichseg.io import read_volume  # noqa: E402
from ichseg.metrics import measure_mask  # noqa: E402

SHAPE = (40, 48, 8)


@pytest.fixture
def volume() -> np.ndarray:
    """(columns, rows, slices) HU, every slice and both axes told apart."""
    made = head(SHAPE).astype(int)
    made += np.arange(SHAPE[2])
    made[:3, :5] = 100
    return made


def found(path: Path):
    return stacks(one for source in find_sources(path) for one in read_instances(source))


# --- stacks --------------------------------------------------------------------------------------------------------
def test_slices_are_in_order_of_position_whatever_they_are_called(tmp_path, volume):
    save_series(tmp_path, volume)
    (stack,) = found(tmp_path)
    voxels, doubts = read_stack(stack)
    assert np.array_equal(voxels, volume) and voxels.dtype == np.int16 and not doubts
    np.testing.assert_allclose(stack.slabs_mm, 5.0)
    np.testing.assert_allclose(stack.affine, [[-0.5, 0, 0, 10], [0, -0.5, 0, 12], [0, 0, 5, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("degrees", [0.0, 18.5, -25.0])
def test_every_voxel_stays_where_its_slice_says(tmp_path, volume, degrees):
    save_series(tmp_path, volume, orientation=tilted(degrees))
    (stack,) = found(tmp_path)
    for k, one in enumerate(stack.instances):
        across, down = np.reshape(one.orientation, (2, 3))
        for column, row in ((0, 0), (7, 30)):
            lps = np.array(one.position) + 0.5 * column * across + 0.5 * row * down
            ras = stack.affine @ [column, row, k, 1]
            np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-4)
    cosine = np.cos(np.radians(degrees))
    np.testing.assert_allclose(stack.slabs_mm, 5 * cosine, rtol=1e-6)
    assert any("tilt" in note for note in stack.notes) == (degrees != 0) and not stack.doubts


def test_uneven_slices_measure_what_they_are(tmp_path, volume):
    heights = [0, 4, 8, 12, 19, 26, 33, 40]
    save_series(tmp_path, volume, heights=heights, orientation=tilted(18.5))
    (stack,) = found(tmp_path)
    cosine = np.cos(np.radians(18.5))
    np.testing.assert_allclose(stack.slabs_mm, np.array([4, 4, 4, 5.5, 7, 7, 7, 7]) * cosine, rtol=1e-6)
    assert stack.doubts == ("slices are 3.8 to 6.6 mm apart; volumes take this into account",)
    mask = np.zeros(SHAPE)
    mask[10:20, 10:20, 2:5] = 1
    measured = measure_mask(mask, stack.affine, 2, slabs_mm=stack.slabs_mm)
    assert measured["volume_ml"] == pytest.approx(100 * 0.25 * (4 + 5.5 + 7) * cosine / 1000, abs=1e-3)
    assert measured["c_cm"] == pytest.approx((4 + 5.5 + 7) * cosine / 10, abs=0.005)


def test_even_slices_measure_the_same_with_and_without_slabs(volume):
    affine = np.diag([-0.5, -0.5, 5.0, 1.0])
    mask = volume > 60
    assert measure_mask(mask, affine, 2) == measure_mask(mask, affine, 2, slabs_mm=[5.0] * SHAPE[2])
    with pytest.raises(ValueError, match="3 values of slabs_mm for 8 slices"):
        measure_mask(mask, affine, 2, slabs_mm=[5.0] * 3)


def test_a_series_asked_for_by_number_does_not_replace_another_of_its_folder(tmp_path, volume):
    both, alone = tmp_path / "in" / "both", tmp_path / "in" / "alone"
    save_series(both, volume, series="1.1", SeriesNumber=1, ConvolutionKernel="soft", study="5.1")
    save_series(both / "more", volume, series="1.2", SeriesNumber=2, ConvolutionKernel="bone", study="5.1")
    for path in (both / "more").iterdir():
        path.rename(both / f"more_{path.name}")
    save_series(alone, volume, series="2.7", SeriesNumber=7, study="5.2")

    def names(series):
        found = list_series([tmp_path / "in"], str(tmp_path / "in"), tmp_path / "out", series)
        return {entry["case"]: entry["dicom"]["notes"] for entry in found if "dicom" in entry}

    assert names("best") == {"both": ["series 1; also in this folder: 2"], "alone": []}
    assert names("2") == {"both_series2": ["series 2; also in this folder: 1"]} and list(names("7")) == ["alone"]
    assert sorted(names("all")) == ["alone", "both_series1", "both_series2"]
    with pytest.raises(IchsegError, match=r"--series 3: no series has .*; found: 1, 2, 7"):
        names("3")


def test_missing_and_copied_slices_are_named(tmp_path, volume):
    paths = save_series(tmp_path / "a", volume, shuffle=False)
    paths[3].unlink()
    (tmp_path / "a" / "copy.dcm").write_bytes(paths[4].read_bytes())
    (stack,) = found(tmp_path)
    assert stack.doubts == ("1 slice missing after image 3",) and len(stack.instances) == 7
    assert stack.notes == ("ignored 1 duplicate image",)


def test_two_passes_under_one_series_are_two_stacks(tmp_path, volume):
    save_series(tmp_path / "a", volume, AcquisitionNumber=1, shuffle=False)
    for path in save_series(tmp_path / "b", volume + 5, AcquisitionNumber=2, shuffle=False):
        made = pydicom.dcmread(path)
        made.SOPInstanceUID += ".2"
        made.save_as(path)
    first, second = found(tmp_path)
    assert np.array_equal(read_stack(first)[0], volume) and np.array_equal(read_stack(second)[0], volume + 5)
    for path in tmp_path.rglob("*.dcm"):  # without acquisition numbers, by the order of the instances
        made = pydicom.dcmread(path)
        del made.AcquisitionNumber
        made.InstanceNumber += 100 * (path.parent.name == "b")
        made.save_as(path)
    first, second = found(tmp_path)
    assert np.array_equal(read_stack(first)[0], volume) and np.array_equal(read_stack(second)[0], volume + 5)


def test_an_enhanced_file_is_a_series(tmp_path, volume):
    heights = [5.0 * k for k in range(SHAPE[2])]
    save_enhanced(tmp_path / "e" / "all.dcm", volume, heights)
    save_series(tmp_path / "s", volume, heights)
    (one,), (many,) = found(tmp_path / "e"), found(tmp_path / "s")
    assert np.array_equal(read_stack(one)[0], volume)
    np.testing.assert_allclose(one.affine, many.affine)


def test_a_zip_archive_is_a_folder(tmp_path, volume):
    save_series(tmp_path / "s", volume, suffix="")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in (tmp_path / "s").iterdir():
            archive.write(path, f"DICOM/A/{path.name}")
        archive.writestr("readme.txt", "no DICOM")
    (stack,) = found(tmp_path / "study.zip")
    assert np.array_equal(read_stack(stack)[0], volume)
    (entry,) = list_series([tmp_path / "study.zip"], str(tmp_path), tmp_path / "out")
    assert entry["case"] == "study/DICOM/A"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"])
def test_compressed_pixels_are_the_same(tmp_path, volume, syntax):
    """Run length, JPEG 2000 and JPEG-LS, all lossless."""
    for path in save_series(tmp_path, volume):
        made = pydicom.dcmread(path)
        try:
            made.compress(syntax, generate_instance_uid=False)
        except (RuntimeError, NotImplementedError) as error:
            pytest.skip(f"nothing here to compress with: {error}")
        made.save_as(path)
    (stack,) = found(tmp_path)
    assert np.array_equal(read_stack(stack)[0], volume)


def test_slices_that_are_numbered_one_by_one_stay_together(tmp_path, volume):
    paths = save_series(tmp_path, volume, shuffle=False)
    for n, path in enumerate(paths):
        made = pydicom.dcmread(path)
        made.AcquisitionNumber = n
        made.save_as(path)
    again = pydicom.dcmread(paths[3])  # one slice was scanned twice
    again.SOPInstanceUID, again.AcquisitionNumber, again.InstanceNumber = "1.2.99", 50, 50
    again.save_as(tmp_path / "again.dcm")
    assert sorted(len(stack.instances) for stack in found(tmp_path)) == [1, 8]


def test_two_passes_between_each_other_are_not_mixed(tmp_path, volume):
    save_series(tmp_path / "a", volume, AcquisitionNumber=1, shuffle=False)
    for path in save_series(tmp_path / "b", volume + 5, [5.0 * k + 1.7 for k in range(8)], AcquisitionNumber=2):
        made = pydicom.dcmread(path)
        made.SOPInstanceUID += ".2"
        made.save_as(path)
    assert [len(stack.instances) for stack in found(tmp_path)] == [8, 8]


def test_rounding_of_the_header_splits_and_shuffles_nothing(tmp_path, volume):
    """Direction cosines about a rounding boundary, and different ones for each slice."""
    paths = save_series(tmp_path, volume, [0.6 * k for k in range(8)], shuffle=False)
    for n, path in enumerate(paths):
        made = pydicom.dcmread(path)
        small = 0.004 if n % 2 else -0.004
        made.ImageOrientationPatient = [1, 0, 0, 0, 0.995 + small / 1000, 0.0998749 + small]
        made.PixelSpacing = [0.50005 + small / 1e4] * 2
        made.save_as(path)
    (stack,) = found(tmp_path)
    assert [one.number for one in stack.instances] == list(range(1, 9))


def test_a_wide_gap_is_not_counted_as_tissue(tmp_path, volume):
    save_series(tmp_path, volume, [0, 5, 10, 15, 115, 120, 125, 130])
    (stack,) = found(tmp_path)
    np.testing.assert_allclose(stack.slabs_mm, 5.0)
    assert "19 slices missing" in stack.doubts[0] and "not counted" in stack.doubts[0]


def test_equal_identifiers_of_different_slices_are_no_copies(tmp_path, volume):
    for path in save_series(tmp_path, volume):
        made = pydicom.dcmread(path)
        made.SOPInstanceUID = "1.2.3.4.5"
        made.save_as(path)
    (stack,) = found(tmp_path)
    assert len(stack.instances) == 8


# --- values --------------------------------------------------------------------------------------------------------
def one_image(folder: Path, values: np.ndarray, **more) -> np.ndarray:
    for k in range(5):
        folder.mkdir(exist_ok=True)
        made = image(values.T, (0, 0, 5 * k), number=k + 1, **more)
        made.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    (stack,) = found(folder)
    return read_stack(stack)


def test_signed_values_and_padding(tmp_path):
    values = np.full((8, 6), 30)
    values[0] = -2000
    read, doubts = one_image(tmp_path / "a", values, PixelRepresentation=1, RescaleIntercept=0, PixelPaddingValue=-2000)
    assert read[0, 0, 0] == -1000 and read[1, 0, 0] == 30 and not doubts
    # A padding value that is a tissue's is a mistake of the file.
    read, _ = one_image(
        tmp_path / "b", np.full((8, 6), 30), PixelRepresentation=1, RescaleIntercept=0, PixelPaddingValue=30
    )
    assert (read == 30).all()
    read, _ = one_image(tmp_path / "c", np.full((8, 6), 30), RescaleSlope=0.5)
    assert (read == 30).all()


def test_values_without_rescaling_are_doubted(tmp_path):
    read, doubts = one_image(tmp_path / "a", np.full((8, 6), 30), RescaleSlope=None)
    assert (read == 30 + 1024).all() and "no RescaleSlope" in doubts[0]


# --- what is left out ----------------------------------------------------------------------------------------------
ODD = {
    "MR": ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "MR, not CT"),
    "scout": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
    "mip": ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "a maximum intensity projection"),
    "capture": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture"),
    "report": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}, "a structured report"),
    "document": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "Modality": "DOC"}, "an encapsulated document"),
    "seg": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "a segmentation or raw data"),
    "dose": ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "a dose report"),
    "sagittal": ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "sagittal slices"),
    "coronal": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "coronal slices"),
    "nowhere": ({"ImageOrientationPatient": None}, "no ImageOrientationPatient"),
    "oblique": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "an invalid ImageOrientationPatient"),
    "unplaced": ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
    "sizeless": ({"PixelSpacing": None}, "no PixelSpacing"),
    "flat": ({"PixelSpacing": [0, 0]}, "a PixelSpacing of 0"),
    "color": ({"SamplesPerPixel": 3}, "a color picture"),
    "PET": ({"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, "PT, not CT"),
    "nothing": ({"Modality": None}, "no modality"),
    "dose_class": ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "Modality": "RTDOSE"}, "a radiotherapy object"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_scan_says_why(tmp_path, name):
    elements, reason = ODD[name]
    for k in range(6):
        made = image(np.zeros((8, 6)), (0, 0, 5 * k), number=k + 1)
        for key, value in elements.items():
            if value is None:
                delattr(made, key)
            else:
                setattr(made, key, value)
        made.save_as(tmp_path / f"{k}.dcm", enforce_file_format=True)
    (stack,) = found(tmp_path)
    assert reason in stack.skip


def test_objects_of_no_patient_are_passed_over(tmp_path, volume):
    save_series(tmp_path, volume)
    made = image(np.zeros((8, 6)), (0, 0, 0), SOPClassUID="1.2.840.10008.5.1.4.38.1")
    del made.SeriesInstanceUID, made.StudyInstanceUID, made.PixelData
    made.save_as(tmp_path / "protocol.dcm", enforce_file_format=True)
    (stack,) = found(tmp_path)
    assert len(stack.instances) == volume.shape[2] and not stack.skip


def test_another_part_of_the_body_is_left_alone_unless_asked_for(tmp_path, volume):
    save_series(tmp_path, volume, BodyPartExamined="CHEST")
    (stack,) = choose(found(tmp_path))
    assert stack.skip == "not the head, according to the header (chest)"
    assert choose(found(tmp_path), "2")[0].skip == ""


@pytest.mark.parametrize("part", ["HEAD", "CRANIUM", "TETE", "TESTA", "HOOFD", "HEADNECK"])
def test_a_head_by_another_name_is_one(tmp_path, volume, part):
    save_series(tmp_path, volume, BodyPartExamined=part)
    assert choose(found(tmp_path))[0].skip == ""


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [
        *(
            (name, False)
            for name in ("", "NO", "NONE", "NO CONTRAST", "Without", "W/O CONTRAST", "nativ", "NON-CONTRAST")
        ),
        *((name, True) for name in ("YES", "OMNIPAQUE 300", "NON-IONIC", "W/CONTRAST", "NOVAPAQUE", "APPLIED")),
    ],
)
def test_which_words_name_a_contrast_agent(tmp_path, volume, agent, contrast):
    save_series(tmp_path, volume, ContrastBolusAgent=agent)
    assert found(tmp_path)[0].first.contrast == contrast


def test_files_with_an_ending_of_their_own_are_read(tmp_path, volume):
    for path in save_series(tmp_path, volume, suffix=""):
        path.rename(path.with_name(f"{path.name}.CT"))
    (tmp_path / "notes.txt").write_text("no DICOM")
    (stack,) = found(tmp_path)
    assert np.array_equal(read_stack(stack)[0], volume)


def test_headers_that_do_not_decode_are_named(tmp_path, volume):
    paths = save_series(tmp_path / "in", volume)
    data = paths[0].read_bytes()
    at = data.index(b"\x28\x00\x10\x00US\x02\x00")  # Rows, of three bytes
    paths[0].write_bytes(data[: at + 6] + b"\x03\x00" + data[at + 8 : at + 10] + b"\0" + data[at + 10 :])
    entries = list_series([tmp_path / "in"], str(tmp_path), tmp_path / "out")
    (broken,) = [entry for entry in entries if "broken" in entry]
    assert broken["broken"].startswith(f"{paths[0]}: ")


def test_names_within_an_archive_stay_within_the_output(tmp_path, volume):
    save_series(tmp_path / "s", volume)
    for number, place in enumerate(("../../evil", "/evil")):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            for path in (tmp_path / "s").iterdir():
                archive.write(path, f"{place}/{path.name}")
    entries = list_series([tmp_path], str(tmp_path), tmp_path / "out")
    for entry in entries:
        assert ".." not in Path(entry["case"]).parts and not Path(entry["case"]).is_absolute()
        assert "skip" in entry or Path(entry["image"]).resolve().is_relative_to(tmp_path / "out" / "scans")


def broken_ones(folder: Path) -> dict[str, tuple[bytes, str]]:
    good = save_series(folder, head((16, 16, 1)).astype(int))[0]
    data = good.read_bytes()
    good.unlink()
    return {
        "empty.dcm": (b"", "not a DICOM image"),
        "text.dcm": (b"Dear colleague, " * 20, "not a"),
        "page.dcm": (b"<html>not found</html>", "not a"),
        "preamble.dcm": (data[:132], "not a DICOM image"),
        "torn_header.dcm": (data[:400], "no SeriesInstanceUID|not a"),
        "broken.zip": (b"PK\x03\x04" + b"\0" * 40, "a damaged zip archive"),
    }


def test_broken_files_are_named(tmp_path):
    for name, (data, reason) in broken_ones(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(data)
        (source,) = find_sources(path)
        with pytest.raises(ScanError, match=reason) as told:
            read_instances(source)
        assert str(told.value).startswith(str(path)) and "\n" not in str(told.value)
        path.unlink()


def test_pixels_that_cannot_be_read_are_named(tmp_path, volume):
    paths = save_series(tmp_path, volume)
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[:-500])
    (stack,) = found(tmp_path)
    with pytest.raises(ScanError, match=r"im\d+\.dcm: the file ends early"):
        read_stack(stack)
    made = pydicom.dcmread(paths[2], force=True)
    del made.PixelData
    made.save_as(paths[2])
    with pytest.raises(ScanError, match="no pixels"):
        read_stack(stack)
    (tmp_path / "x").mkdir()
    made = image(np.zeros((8, 6)), (0, 0, 0))
    made.Rows = 9
    made.save_as(tmp_path / "x" / "a.dcm", enforce_file_format=True)
    (stack,) = found(tmp_path / "x")
    with pytest.raises(ScanError, match=r"a\.dcm: "):
        read_stack(stack)


# --- which series --------------------------------------------------------------------------------------------------
@pytest.fixture
def study(tmp_path, volume) -> Path:
    """A usual study: scout, 5 mm soft, 5 mm bone, thin soft, sagittal, dose report, two slices."""
    folder = tmp_path / "study"
    five = {"SliceThickness": 5.0}
    save_series(
        folder / "1", volume[..., :1], series="1.1", SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    save_series(folder / "2", volume, series="1.2", SeriesNumber=2, heights=[15.0 * k for k in range(8)],
                ConvolutionKernel="H70h", **five)  # fmt: skip
    save_series(folder / "3", np.repeat(volume, 3, axis=2), series="1.3", SeriesNumber=3, **five)
    thin = np.repeat(volume, 15, axis=2)
    save_series(
        folder / "4", thin, series="1.4", SeriesNumber=4, heights=[1.0 * k for k in range(120)], SliceThickness=1.0
    )
    save_series(folder / "5", volume, series="1.5", SeriesNumber=5, ImageType=["DERIVED", "SECONDARY", "MPR"],
                orientation=(0, 1, 0, 0, 0, -1))  # fmt: skip
    save_series(folder / "6", volume[..., :2], series="1.6", SeriesNumber=6)
    return folder


def test_one_series_of_a_study_is_segmented(study):
    chosen = choose(found(study))
    reasons = {stack.first.series_number: stack.skip for stack in chosen}
    assert reasons == {
        1: "a localizer", 2: "a sharp kernel (H70H); series 3 of the same study is segmented", 3: "",
        4: "slices of 1.0 mm; series 3 of the same study is segmented", 5: "sagittal slices, not axial",
        6: "only 2 slices",
    }  # fmt: skip
    assert [s.first.series_number for s in choose(found(study), "all") if not s.skip] == [2, 3, 4]
    assert [s.first.series_number for s in choose(found(study), "4") if not s.skip] == [4]
    assert [s.first.series_number for s in choose(found(study), "1.4") if not s.skip] == [4]
    with pytest.raises(IchsegError, match="no series has this number"):
        choose(found(study), "77")


def test_without_thick_slices_the_thinnest_soft_ones_are_taken(study):
    chosen = choose([s for s in found(study) if s.first.series_number in (2, 4)])
    assert [s.first.series_number for s in chosen if not s.skip] == [4]


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        *((name, False) for name in ("H30s", "J40s", "Hr40", "FC21", "FC64", "STANDARD", "UB", "STD+", "SOFT", "")),
        *((name, True) for name in ("H70h", "Hr68d", "FC30", "FC81", "BONEPLUS", "YD", "EDGE", "LUNG")),
    ],
)
def test_sharp_kernels(study, kernel, sharp):
    stack = next(s for s in found(study) if s.first.series_number == 3)
    one = replace(stack.first, kernel=kernel.upper())
    assert is_sharp(replace(stack, instances=(one, *stack.instances[1:]))) == sharp


# --- a folder run --------------------------------------------------------------------------------------------------
def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return segmenter_file(tmp_path_factory.mktemp("weights") / "model.pt")


def test_a_study_goes_through_a_folder_run(study, tmp_path, weights, capsys):
    (study / "7").mkdir()
    (study / "7" / "torn.dcm").write_bytes(b"nothing")
    words = ["segment", str(study), str(tmp_path / "out"), "--weights", str(weights), "--device", "cpu"]
    assert main(words) == 1
    table = rows(tmp_path / "out")
    assert {case: row["status"].replace("flagged", "ok") for case, row in table.items()} == {
        "1_series1": "skipped", "2_series2": "skipped", "3": "ok", "4_series4": "skipped", "5_series5": "skipped",
        "6_series6": "skipped", "7/torn.dcm": "failed",
    }  # fmt: skip
    assert "sharp kernel" in table["2_series2"]["message"] and "torn.dcm: not a" in table["7/torn.dcm"]["message"]
    scan = read_volume(tmp_path / "out" / "scans" / "3.nii.gz")
    assert (tmp_path / "out" / "3_ich.nii.gz").is_file() and scan.array.shape == (40, 48, 24)
    said = capsys.readouterr()
    secrets = ("Zyxwv", "SECRET-7", "19500101", "ACCESS-55")
    everything = said.out + said.err + (tmp_path / "out" / "report.html").read_text()
    everything += "".join(p.read_text() for p in (tmp_path / "out").glob("*.*sv*"))
    everything += "".join(p.read_text() for p in (tmp_path / "out").glob("*.json*"))
    assert not any(secret in everything for secret in secrets)
    assert main(words) == 1
    assert rows(tmp_path / "out")["3"]["reused"] == "yes"
    made = pydicom.dcmread(study / "3" / "im001.dcm")  # a file that changes is noticed
    made.PixelData = b"\0" * len(made.PixelData)
    made.save_as(study / "3" / "im001.dcm")
    assert main(words) == 1
    assert rows(tmp_path / "out")["3"]["reused"] != "yes"


def test_nifti_and_dicom_together(study, tmp_path, weights, capsys):
    write_scan(next(e for e in list_series([study], str(study), tmp_path / "made") if "dicom" in e))
    (study / "more").mkdir()
    (tmp_path / "made" / "scans" / "3.nii.gz").rename(study / "more" / "b.nii.gz")
    words = ["segment", str(study), str(tmp_path / "out"), "--weights", str(weights), "--device", "cpu", "--no-report"]
    assert main(words) == 0
    table = rows(tmp_path / "out")
    assert table["more/b"]["volume_ml"] == table["3"]["volume_ml"]
    masks = [read_volume(tmp_path / "out" / f"{name}_ich.nii.gz").array for name in ("3", "more/b")]
    assert np.array_equal(*masks)
    (study / "more" / "b.nii.gz").rename(study / "3.nii.gz")  # the name of a folder of DICOM
    assert main(words) == 1
    said = f"failed: {study / '3'}: same output name as {study / '3.nii.gz'}; rename one"
    assert said in capsys.readouterr().out


def series_of(folder: Path, study_uid: str = "1.2.3", brighter: int = 0) -> Path:
    """A small series in a folder."""
    save_series(folder, head((40, 48, 6)).astype(int) + brighter, study=study_uid, series=f"{study_uid}.5")
    return folder


def test_a_scan_of_somebody_else_is_set_aside(tmp_path, weights):
    series_of(tmp_path / "dicom" / "p1")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "p1.nii.gz").write_bytes(b"somebody's scan")
    words = [
        "segment",
        str(tmp_path / "dicom"),
        str(tmp_path),
        "--weights",
        str(weights),
        "--device",
        "cpu",
        "--no-report",
    ]
    assert main(words) == 0
    assert (tmp_path / "scans" / "p1.nii.gz.bak").read_bytes() == b"somebody's scan"
    assert "kept as scans/p1.nii.gz.bak" in rows(tmp_path)["p1"]["message"]
    assert main(words) == 0 and rows(tmp_path)["p1"]["reused"] == "yes"  # nothing of its own is an input
    assert list(rows(tmp_path)) == ["p1"] and len(list(tmp_path.rglob("*.bak*"))) == 1
    (tmp_path / "dicom" / "p1" / "im003.dcm").write_bytes((tmp_path / "dicom" / "p1" / "im003.dcm").read_bytes()[:900])
    (tmp_path / "scans" / "p1.nii.gz").write_bytes(b"edited")
    assert main(words) == 1 and (tmp_path / "scans" / "p1.nii.gz").read_bytes() == b"edited"


def test_outputs_of_a_series_that_was_replaced_and_fails_are_removed(tmp_path, weights):
    p1, out = series_of(tmp_path / "in" / "p1"), tmp_path / "out"
    words = ["segment", str(tmp_path / "in"), str(out), "--weights", str(weights), "--device", "cpu", "--no-report"]
    assert main(words) == 0 and (out / "p1_ich.nii.gz").is_file()
    shutil.rmtree(p1)
    series_of(p1, "1.2.77")
    file = sorted(p1.iterdir())[0]
    file.write_bytes(file.read_bytes()[:-600])  # another patient, torn
    assert main(words) == 1
    assert not list(out.glob("p1_*")) and "removed outputs of a different scan" in rows(out)["p1"]["message"]


def test_in_place_nothing_of_its_own_is_taken_for_a_scan(tmp_path, weights, capsys):
    series_of(tmp_path / "d" / "p1")
    words = [
        "segment",
        str(tmp_path / "d"),
        str(tmp_path / "d"),
        "--weights",
        str(weights),
        "--device",
        "cpu",
        "--no-report",
    ]
    words += ["--dicom", "seg,sr"]
    assert main(words) == 0 and main(words) == 0
    assert list(rows(tmp_path / "d")) == ["p1"] and rows(tmp_path / "d")["p1"]["reused"] == "yes"
    assert main(["measure", str(tmp_path / "d")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("p1") for line in said) == 1 and not any("scans/p1" in line for line in said)


def test_archives_with_one_name_do_not_replace_each_other(tmp_path, weights, capsys):
    for number, place in enumerate(("x", "y")):
        folder = series_of(tmp_path / place / "files", f"1.2.{number}", 10 * number)
        shutil.make_archive(str(tmp_path / place / "study"), "zip", folder)
    out = tmp_path / "out"
    words = ["--weights", str(weights), "--device", "cpu", "--no-report"]
    assert main(["segment", str(tmp_path / "x" / "study.zip"), str(out), *words]) == 0
    made = (out / "study_ich.nii.gz").read_bytes(), rows(out)["study"]["volume_ml"]
    assert main(["segment", str(tmp_path / "y" / "study.zip"), str(out), *words]) == 1
    assert "same output name as" in capsys.readouterr().out
    assert (out / "study_ich.nii.gz").read_bytes() == made[0] and len(
        (out / "results.jsonl").read_text().splitlines()
    ) == 2
    assert main(["segment", str(tmp_path / "x" / "study.zip"), str(out), *words]) == 0  # its own row is reused
    (tmp_path / "x" / "study.zip").unlink()
    assert main(["segment", str(tmp_path / "y" / "study.zip"), str(out), *words]) == 0
    assert [row["file"] for row in rows(out).values()] == [str(tmp_path / "y" / "study.zip")]


def test_what_headers_say_is_never_run(tmp_path, weights):
    """MONAI's configs run text that begins with a dollar sign."""
    pwned = tmp_path / "pwned"
    files = save_series(tmp_path / "in" / "p1", head((40, 48, 6)).astype(int))
    for path in files:
        made = pydicom.dcmread(path)
        made.SOPInstanceUID = f"$open({str(pwned)!r}, 'w').write('{path.name}')"
        made.save_as(path)
    (tmp_path / "in" / "$open('pwned', 'w').nii.gz").write_bytes(b"no scan")
    words = ["--weights", str(weights), "--device", "cpu"]
    assert main(["estimate", str(tmp_path / "in"), *words]) == 0
    assert main(["segment", str(tmp_path / "in"), str(tmp_path / "out"), *words, "--no-report"]) == 1
    assert not pwned.exists() and rows(tmp_path / "out")["p1"]["status"] in ("ok", "flagged")


# --- data for training ---------------------------------------------------------------------------------------------
def test_studies_with_labels_become_a_data_set(tmp_path, volume, capsys):
    rows_ = ["SOPInstanceUID,hemorrhage"]
    for n in range(6):
        series = f"5.{n}.1"
        paths = save_series(
            tmp_path / "in" / f"s{n}", volume + n, study=f"5.{n}", series=series, PatientID=f"P{n // 2}"
        )
        for path in paths if n != 5 else paths[1:]:
            made = pydicom.dcmread(path)
            height = made.ImagePositionPatient[2]
            rows_.append(f"{made.SOPInstanceUID},{int(height >= 20)}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows_))
    words = ["prepare", "dicom", str(tmp_path / "in"), str(table), str(tmp_path / "data"), "--fold-tolerance", "1"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "s5: 1 of 8 images have no label in labels.csv, such as im" in said.out + said.err
    scans = load_datalist(tmp_path / "data" / "datalist.json")
    assert [scan["case"] for scan in scans] == [f"s{n}" for n in range(5)]
    assert all(scan["slice_labels"] == [0] * 4 + [1] * 4 for scan in scans)
    assert len({scan["patient"] for scan in scans}) == 3 and scans[0]["fold"] == scans[1]["fold"]
    assert np.array_equal(read_volume(scans[2]["image"]).array, volume + 2)
    assert not any(secret in (tmp_path / "data" / "datalist.json").read_text() for secret in ("P0", "Zyxwv"))
    table.write_text("SOPInstanceUID,hemorrhage\n1.2.3,1\n")
    words[4] = str(tmp_path / "none")
    assert main(words) == 2 and not (tmp_path / "none").exists()
    assert "no series has a label for each of its images" in capsys.readouterr().err
    table.write_text("image,hemorrhage\n1.2.3,1\n")
    assert main(words) == 2
    assert "no column 'sopinstanceuid'" in capsys.readouterr().err
