"""DICOM out: every mask pixel on its source slice, measures that are those of the table, and nothing for nothing."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from broken_files import head  # noqa: E402
from conftest import REAL, segmenter_file  # noqa: E402
from dicom_files import save_enhanced, save_series, tilted  # noqa: E402

from ichseg.cli import main  # noqa: E402
from ichseg.dicom import find_sources, read_instances, stacks  # noqa: E402
from ichseg.dicom.capture import captures  # noqa: E402
from ichseg.dicom.objects import Origin, report, segmentation, source_headers  # noqa: E402
from ichseg.io import read_mask  # noqa: E402
from ichseg.metrics import measure_mask  # noqa: E402

SHAPE = (40, 48, 8)
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # dcmqi comes by pip
ORIGIN = Origin("ab" * 32, 0.5)


def one_stack(path: Path):
    (stack,) = stacks(one for source in find_sources(path) for one in read_instances(source))
    return stack


@pytest.fixture
def lesion() -> np.ndarray:
    """Off center, no mirror image of itself, on four of eight slices."""
    mask = np.zeros(SHAPE, bool)
    mask[25:33, 10:14, 2:5] = True
    mask[25:27, 10:20, 6] = True
    return mask


FLIPPED = (-1, 0, 0, 0, 1, 0)  # rows run to the right of the patient


@pytest.fixture(params=["plain", "tilted", "flipped", "uneven", "enhanced"])
def series(request, tmp_path) -> Path:
    volume = head(SHAPE).astype(int)
    if request.param == "enhanced":
        return save_enhanced(tmp_path / "scan" / "all.dcm", volume, [5.0 * k for k in range(8)]).parent
    heights = [0, 4, 8, 12, 19, 26, 33, 40] if request.param == "uneven" else None
    orientation = {"plain": tilted(0), "flipped": FLIPPED}.get(request.param, tilted(-21))
    save_series(tmp_path / "scan", volume, heights, orientation)
    return tmp_path / "scan"


def test_every_pixel_lies_on_its_source_slice(series, lesion):
    stack = one_stack(series)
    made = segmentation(lesion, stack, source_headers(stack), ORIGIN)
    pixels = made.pixel_array
    assert pixels.shape == (4, 48, 40) and made.SegmentationType == "BINARY"
    where = {(one.uid, one.frame): k for k, one in enumerate(stack.instances)}
    seen = np.zeros(SHAPE, bool)
    for frame, groups in zip(pixels, made.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = source.get("ReferencedFrameNumber")
        k = where[source.ReferencedSOPInstanceUID, None if number is None else int(number) - 1]
        seen[..., k] = frame.T
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(np.array(position, float), stack.instances[k].position, atol=1e-4)
    assert np.array_equal(seen, lesion)


def test_highdicom_reads_the_same_voxels_by_their_source(series, lesion, tmp_path):
    import highdicom

    stack = one_stack(series)
    segmentation(lesion, stack, source_headers(stack), ORIGIN).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    if stack.first.frame is None:
        uids = [one.uid for one in stack.instances]
        found = read.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    else:
        frames = [one.frame + 1 for one in stack.instances]
        found = read.get_pixels_by_source_frame(
            stack.first.uid, frames, combine_segments=True, assert_missing_frames_are_empty=True
        )
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1).swapaxes(0, 1) > 0, lesion)


def test_what_is_said_of_a_segmentation(series, lesion):
    stack = one_stack(series)
    made = segmentation(lesion, stack, source_headers(stack), ORIGIN)
    (segment,) = made.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"  # SNOMED: hemorrhage
    assert segment.AnatomicRegionSequence[0].CodeMeaning == "Intracranial structure"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert ORIGIN.weights in algorithm.AlgorithmParameters and "Research use only" in made.ContentDescription
    assert (made.PatientID, made.PatientName, made.AccessionNumber) == ("SECRET-7", "Zyxwv^Jane", "ACCESS-55")
    assert (made.StudyInstanceUID, made.FrameOfReferenceUID) == ("1.2.3", "1.2.3.9")
    again = segmentation(lesion, stack, source_headers(stack), ORIGIN)
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (made.SOPInstanceUID, made.SeriesInstanceUID)
    other = segmentation(lesion[::-1], stack, source_headers(stack), ORIGIN)
    assert other.SOPInstanceUID != made.SOPInstanceUID and other.SeriesInstanceUID == made.SeriesInstanceUID


def numbers(dataset) -> dict[str, float]:
    """Meaning of the concept -> number, of all measurements of a report."""
    found = {}
    for item in dataset.get("ContentSequence", []):
        if item.ValueType == "NUM" and "MeasuredValueSequence" in item:
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            found[name] = float(item.MeasuredValueSequence[0].NumericValue)
        found.update(numbers(item))
    return found


def codes(dataset) -> dict[str, str]:
    found = {}
    for item in dataset.get("ContentSequence", []):
        if item.ValueType == "CODE":
            found[item.ConceptNameCodeSequence[0].CodeMeaning] = item.ConceptCodeSequence[0].CodeMeaning
        found.update(codes(item))
    return found


def comments_of(dataset) -> list[str]:
    found = []
    for item in dataset.get("ContentSequence", []):
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeMeaning == "Comment":
            found.append(item.TextValue)
        found += comments_of(item)
    return found


def test_the_report_says_what_was_measured(series, lesion):
    stack = one_stack(series)
    measured = {**measure_mask(lesion, stack.affine, 2, slabs_mm=stack.slabs_mm), "side": "left"}
    sources = source_headers(stack)
    segmented = segmentation(lesion, stack, sources, ORIGIN)
    made = report(measured, stack, sources, ORIGIN, segmented, 0.875)
    told = numbers(made)
    assert told["Volume"] == measured["volume_ml"] and told["Long axis"] == measured["a_cm"]
    assert told["ABC/2 volume of the largest lesion"] == measured["abc2_ml"]
    assert told["Probability of intracranial hemorrhage"] == 0.875 and told["Number of lesions"] == 2
    said = codes(made)
    assert said["Intracranial hemorrhage (disorder)"] == "Present" and said["Laterality"] == "Left"
    evidence = {
        instance.ReferencedSOPInstanceUID
        for study in made.CurrentRequestedProcedureEvidenceSequence
        for one in study.ReferencedSeriesSequence
        for instance in one.ReferencedSOPSequence
    }
    assert segmented.SOPInstanceUID in evidence and {one.uid for one in stack.instances} <= evidence


def test_no_hemorrhage_is_said_in_a_report_alone(series):
    stack = one_stack(series)
    made = report(measure_mask(np.zeros(SHAPE), stack.affine), stack, source_headers(stack), ORIGIN)
    assert codes(made)["Intracranial hemorrhage (disorder)"] == "Absent" and numbers(made)["Volume"] == 0
    assert "Long axis" not in numbers(made)


def test_doubts_are_comments_of_the_report(tmp_path, weights):
    save_series(tmp_path / "scan", head(SHAPE).astype(int), [0, 5, 10, 15, 30, 35, 40, 45])
    row = segmented(tmp_path / "scan", tmp_path / "out", weights)
    made = pydicom.dcmread(tmp_path / "out" / "scan_sr.dcm")
    comments = comments_of(made)
    assert any("missing" in comment for comment in comments) and all(comment in row["message"] for comment in comments)


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        (None, "Miller"),
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "Müller^Jürgen"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_comments_keep_letters_that_the_source_does_not_use(tmp_path, characters, name):
    more = {} if characters is None else {"SpecificCharacterSet": characters}
    save_series(tmp_path / "in", np.zeros(SHAPE, int), PatientName=name, **more)
    stack = one_stack(tmp_path / "in")
    doubts = ["ΑΒΓ_頭.nii is next to it"]
    made = report(measure_mask(np.zeros(SHAPE), stack.affine), stack, source_headers(stack), ORIGIN, doubts=doubts)
    made.save_as(tmp_path / "sr.dcm")
    read = pydicom.dcmread(tmp_path / "sr.dcm")
    assert comments_of(read) == doubts and str(read.PatientName) == name


def test_captures_show_every_slice(series, lesion):
    stack = one_stack(series)
    made = list(captures(lesion, stack, source_headers(stack), ORIGIN))
    assert [one.InstanceNumber for one in made] == list(range(1, 9)) and len(
        {one.SeriesInstanceUID for one in made}
    ) == 1
    assert len({one.SOPInstanceUID for one in made}) == 8
    from PIL import Image

    for k, one in enumerate(made):
        data = pydicom.encaps.get_frame(one.PixelData, 0, number_of_frames=1)
        import io

        colors = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        red = (colors[..., 0] - colors[..., 1]) > 60
        assert red.any() == lesion[..., k].any() and colors.shape == (48, 40, 3)


ODD = {
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou"},
    "no thickness": {"SliceThickness": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "sex": {"PatientSex": "FEMALE"},
    "birth date": {"PatientBirthDate": "1950"},
    "no patient": {"PatientID": None, "PatientName": None, "PatientBirthDate": None, "PatientSex": None},
    "no study": {"StudyInstanceUID": None, "StudyDate": None, "StudyTime": None, "AccessionNumber": None},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_headers_are_referred_to_all_the_same(tmp_path, lesion, name):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, path in enumerate(save_series(tmp_path / "s", head(SHAPE).astype(int))):
            made = pydicom.dcmread(path)
            for key, value in ODD[name].items():
                if value is None:
                    delattr(made, key)
                else:
                    setattr(made, key, value)
            made.ImageOrientationPatient = [1, 0, 0, 0, 1, 1e-5 * n]
            made.save_as(path)
    stack = one_stack(tmp_path / "s")
    sources = source_headers(stack)
    made = segmentation(lesion, stack, sources, ORIGIN)
    told = report(measure_mask(lesion, stack.affine), stack, sources, ORIGIN, made)
    assert made.pixel_array.sum() == lesion.sum() and told.StudyInstanceUID == made.StudyInstanceUID


def test_a_part_of_an_enhanced_file_can_be_segmented(tmp_path, lesion):
    stack = one_stack(
        save_enhanced(tmp_path / "e" / "all.dcm", head(SHAPE).astype(int), [5.0 * k for k in range(8)]).parent
    )
    part = replace(stack, instances=stack.instances[:6])
    made = segmentation(lesion[..., :6], part, source_headers(part), ORIGIN)
    assert made.pixel_array.sum() == lesion[..., :6].sum()


# --- through a folder run ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return segmenter_file(tmp_path_factory.mktemp("weights") / "model.pt", threshold=0.0)


def segmented(source: Path, output: Path, weights: Path, *more: str) -> dict[str, str]:
    words = ["segment", str(source), str(output), "--weights", str(weights), "--device", "cpu", "--no-report", *more]
    assert main(words) == 0
    with (output / "results.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row


def test_a_folder_run_writes_them_and_keeps_them(series, tmp_path, weights):
    row = segmented(series, tmp_path / "out", weights, "--dicom", "seg,sr,capture")
    assert float(row["volume_ml"]) > 0
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.dcm")}
    assert names == {"scan_seg.dcm", "scan_sr.dcm", *(f"scan_capture/{k:03d}.dcm" for k in range(1, 9))}
    mask = read_mask(tmp_path / "out" / "scan_ich.nii.gz")[0]
    assert pydicom.dcmread(tmp_path / "out" / "scan_seg.dcm").pixel_array.sum() == mask.sum()
    assert numbers(pydicom.dcmread(tmp_path / "out" / "scan_sr.dcm"))["Volume"] == float(row["volume_ml"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.dcm")}
    assert segmented(series, tmp_path / "out", weights, "--dicom", "seg,sr,capture")["reused"] == "yes"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.dcm")} == before
    (tmp_path / "out" / "scan_sr.dcm").unlink()  # what is gone is made again
    assert segmented(series, tmp_path / "out", weights, "--dicom", "seg,sr,capture")["reused"] != "yes"
    assert (tmp_path / "out" / "scan_sr.dcm").is_file()


def test_objects_of_an_earlier_mask_are_removed(tmp_path, weights):
    save_series(tmp_path / "scan", head(SHAPE).astype(int))
    segmented(tmp_path / "scan", tmp_path / "out", weights)
    assert (tmp_path / "out" / "scan_seg.dcm").is_file()
    row = segmented(tmp_path / "scan", tmp_path / "out", weights, "--threshold", "1")
    assert float(row["volume_ml"]) == 0 and not (tmp_path / "out" / "scan_seg.dcm").exists()
    assert codes(pydicom.dcmread(tmp_path / "out" / "scan_sr.dcm"))["Intracranial hemorrhage (disorder)"] == "Absent"
    file = next((tmp_path / "scan").iterdir())
    file.write_bytes(file.read_bytes()[:-100])  # now it cannot be read
    words = ["segment", str(tmp_path / "scan"), str(tmp_path / "out"), "--weights", str(weights), "--device", "cpu"]
    assert main(words) == 1
    assert not (tmp_path / "out" / "scans" / "scan.nii.gz").exists()


def test_objects_that_are_no_longer_wanted_are_removed(tmp_path, weights):
    save_series(tmp_path / "scan", head(SHAPE).astype(int))
    segmented(tmp_path / "scan", tmp_path / "out", weights, "--dicom", "seg,sr,capture")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 10
    segmented(tmp_path / "scan", tmp_path / "out", weights, "--dicom", "sr")
    assert [path.name for path in (tmp_path / "out").rglob("*.dcm")] == ["scan_sr.dcm"]
    segmented(tmp_path / "scan", tmp_path / "out", weights, "--dicom", "none")
    assert not list((tmp_path / "out").rglob("*.dcm")) and (tmp_path / "out" / "scan_ich.nii.gz").is_file()


def test_volumes_are_sums_of_slabs_without_a_thickness_in_the_header(tmp_path, weights):
    heights = [0, 4, 8, 12, 19, 26, 33, 40]
    save_series(tmp_path / "scan", head(SHAPE).astype(int), heights, SliceThickness=None)
    row = segmented(tmp_path / "scan", tmp_path / "out", weights)
    mask = read_mask(tmp_path / "out" / "scan_ich.nii.gz")[0] > 0
    slabs = [4, 4, 4, 5.5, 7, 7, 7, 7]
    volume = sum(float(mask[..., k].sum()) * 0.25 * slab / 1000 for k, slab in enumerate(slabs))
    told = numbers(pydicom.dcmread(tmp_path / "out" / "scan_sr.dcm"))["Volume"]
    assert volume > 0 and float(row["volume_ml"]) == told == pytest.approx(volume, rel=1e-3)


def test_which_objects_are_written_is_a_choice(tmp_path, weights, capsys):
    save_series(tmp_path / "scan", head(SHAPE).astype(int))
    segmented(tmp_path / "scan", tmp_path / "out", weights, "--dicom", "none")
    assert not list((tmp_path / "out").rglob("*.dcm"))
    segmented(tmp_path / "scan", tmp_path / "out2", weights)
    assert {p.name for p in (tmp_path / "out2").rglob("*.dcm")} == {"scan_seg.dcm", "scan_sr.dcm"}
    words = ["segment", str(tmp_path / "scan"), str(tmp_path / "out3"), "--weights", str(weights), "--dicom", "pdf"]
    assert main(words) == 2
    assert "'pdf' is unknown; choose from seg, sr, capture" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_the_objects_follow_the_standard(series, lesion, tmp_path):
    stack = one_stack(series)
    sources = source_headers(stack)
    made = segmentation(lesion, stack, sources, ORIGIN)
    measured = measure_mask(lesion, stack.affine, 2, slabs_mm=stack.slabs_mm)
    told = report(measured, stack, sources, ORIGIN, made, 0.9, ["a slice is missing", "unlike the training scans"])
    objects = [made, told, next(captures(lesion, stack, sources, ORIGIN))]
    for number, one in enumerate(objects):
        path = tmp_path / f"{number}.dcm"
        one.save_as(path, enforce_file_format=True)
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr + done.stdout, done.stderr


@pytest.mark.skipif(shutil.which("segimage2itkimage", path=TOOLS) is None, reason="dcmqi is not installed")
def test_dcmqi_reads_the_same_voxels_at_the_same_places(request, series, lesion, tmp_path):
    stack = one_stack(series)
    segmentation(lesion, stack, source_headers(stack), ORIGIN).save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    words = [shutil.which("segimage2itkimage", path=TOOLS), "--inputDICOM", str(tmp_path / "seg.dcm")]
    words += ["--outputDirectory", str(tmp_path), "--outputType", "nii", "--prefix", "read"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    found = nib.load(tmp_path / "read-1.nii.gz")
    voxels = np.asarray(found.dataobj) > 0
    marked = [voxels[..., k] for k in np.flatnonzero(voxels.any(axis=(0, 1)))]
    own = [lesion[..., k] for k in np.flatnonzero(lesion.any(axis=(0, 1)))]
    # It may write an axis of the image the other way round; what is where is then told by the affine.
    turned = np.linalg.inv(stack.affine[:3, :3]) @ found.affine[:3, :3]
    flips = [axis for axis in range(2) if turned[axis, axis] < 0]
    np.testing.assert_array_equal(np.flip(marked, [axis + 1 for axis in flips]), own)
    if request.node.callspec.params["series"] not in ("tilted", "uneven"):  # its images have no sheared axes
        mine = nib.affines.apply_affine(stack.affine, np.argwhere(lesion))
        theirs = nib.affines.apply_affine(found.affine, np.argwhere(voxels))
        np.testing.assert_allclose(sorted(map(tuple, theirs.round(2))), sorted(map(tuple, mine.round(2))), atol=0.02)


@pytest.mark.skipif(not (REAL / "ge_head_ct").is_dir(), reason="the GE scan is not here")
def test_a_tilted_scan_with_uneven_slices_goes_through(tmp_path, weights):
    row = segmented(REAL / "ge_head_ct", tmp_path / "out", weights)
    made = pydicom.dcmread(tmp_path / "out" / "dicom_seg.dcm")
    stack = one_stack(REAL / "ge_head_ct")
    where = {one.uid: k for k, one in enumerate(stack.instances)}
    mask = read_mask(tmp_path / "out" / "dicom_ich.nii.gz")[0] > 0
    volume = 0.0
    for frame, groups in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        k = where[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert np.array_equal(frame.T > 0, mask[..., k])
        volume += float((frame > 0).sum()) * 0.4882812**2 * stack.slabs_mm[k] / 1000
    assert mask.any(axis=(0, 1)).sum() == len(made.PerFrameFunctionalGroupsSequence)
    assert float(row["volume_ml"]) == pytest.approx(volume, rel=1e-3)
