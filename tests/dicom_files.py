"""DICOM files made for tests: series of a phantom head as scanners write them, and many odd and broken ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def tilted(degrees: float) -> tuple[float, ...]:
    """Orientation of slices under a gantry tilt."""
    angle = np.radians(degrees)
    return (1, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle)))


def image(
    hounsfield: np.ndarray, position: tuple[float, ...], study: str = "1.2.3", series: str = "1.2.3.4", number: int = 1,
    **more: Any,
) -> FileDataset:  # fmt: skip
    """One CT image.

    Args:
        hounsfield: (rows, columns) whole numbers.
        position: of its first pixel, LPS in mm.
        study, series, number: identifiers.
        **more: elements of the header; None leaves one out.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = more.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = more.get("SOPInstanceUID", f"{series}.{number}")
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    rows, columns = hounsfield.shape
    elements: dict[str, Any] = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": f"{series}.{number}", "StudyInstanceUID": study,
        "SeriesInstanceUID": series, "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Zyxwv^Jane", "PatientID": "SECRET-7", "PatientBirthDate": "19500101", "PatientSex": "F",
        "StudyDate": "20240102", "StudyTime": "030405", "StudyID": "9", "AccessionNumber": "ACCESS-55",
        "SeriesNumber": 2, "InstanceNumber": number, "Manufacturer": "Phantom Works", "BodyPartExamined": "HEAD",
        "FrameOfReferenceUID": f"{study}.9", "ConvolutionKernel": "H30s", "SliceThickness": 5.0, "KVP": 120,
        "ImageOrientationPatient": list(AXIAL), "ImagePositionPatient": [round(float(p), 6) for p in position],
        "PixelSpacing": [0.5, 0.5], "Rows": rows, "Columns": columns, "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 0, "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 80,
        **more,
    }  # fmt: skip
    for name, value in elements.items():
        if value is not None:
            setattr(made, name, value)
    signed = elements["PixelRepresentation"] == 1
    stored = np.rint((hounsfield - float(elements["RescaleIntercept"] or 0)) / float(elements["RescaleSlope"] or 1))
    made.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    return made


def save_series(
    folder: Path, volume: np.ndarray, heights: list[float] | None = None, orientation: tuple[float, ...] = AXIAL,
    spacing: float = 0.5, series: str = "1.2.3.4", shuffle: bool = True, suffix: str = ".dcm", **more: Any,
) -> list[Path]:  # fmt: skip
    """Write a volume (columns, rows, slices), HU, axes to the left, back and head, as a series.

    Args:
        folder: is made.
        volume: its slices, lowest first.
        heights: of the table in mm, along the axis from foot to head; 5 mm apart by default.
        orientation: of rows and columns.
        spacing: mm in plane.
        series: SeriesInstanceUID.
        shuffle: names and instance numbers do not follow the order.
        suffix: of the names.
        **more: see :func:`image`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = volume.shape[2]
    heights = [5.0 * k for k in range(count)] if heights is None else heights
    order = np.random.default_rng(1).permutation(count) if shuffle else np.arange(count)
    half = spacing * np.array(volume.shape[:2]) / 2
    paths = []
    for k in range(count):
        number = int(order[k]) + 1
        made = image(
            volume[:, :, k].T, (-half[0], -half[1], heights[k]), series=series, number=number,
            ImageOrientationPatient=[round(float(d), 9) for d in orientation], PixelSpacing=[spacing, spacing], **more,
        )  # fmt: skip
        path = folder / f"im{number:03d}{suffix}"
        made.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def save_enhanced(path: Path, volume: np.ndarray, heights: list[float], spacing: float = 0.5) -> Path:
    """Write a volume as one enhanced multi-frame CT, its frames from top to bottom."""
    order = list(reversed(range(volume.shape[2])))
    half = spacing * np.array(volume.shape[:2]) / 2
    made = image(volume[:, :, 0].T, (0, 0, 0), SOPClassUID=EnhancedCTImageStorage, ImagePositionPatient=None,
                 ImageOrientationPatient=None, PixelSpacing=None, RescaleSlope=None, RescaleIntercept=None,
                 ConvolutionKernel=None, SliceThickness=None, SOPInstanceUID=generate_uid())  # fmt: skip
    made.NumberOfFrames = volume.shape[2]
    shared, frames = pydicom.Dataset(), []
    shared.PixelMeasuresSequence = Sequence([_item(PixelSpacing=[spacing, spacing], SliceThickness=5.0)])
    shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=list(AXIAL))])
    shared.PixelValueTransformationSequence = Sequence([_item(RescaleSlope=1, RescaleIntercept=-1024)])
    shared.CTImageFrameTypeSequence = Sequence([_item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])])
    for k in order:
        frame = pydicom.Dataset()
        frame.PlanePositionSequence = Sequence([_item(ImagePositionPatient=[-half[0], -half[1], heights[k]])])
        frames.append(frame)
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    made.PixelData = np.stack([volume[:, :, k].T + 1024 for k in order]).astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def _item(**elements: Any) -> pydicom.Dataset:
    made = pydicom.Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made
