"""What the headers of DICOM files say: one instance per image, several per enhanced multi-frame file."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ichseg.dicom.extra import dicom_package
from ichseg.dicom.files import Source
from ichseg.errors import ScanError

MANUFACTURER = "ichseg developers"  # in the objects that ichseg writes
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # the second: converted
# Hanging protocols, color palettes, implant templates, and directories of media have no series.
OF_NO_PATIENT = ("1.2.840.10008.5.1.4.38.", "1.2.840.10008.5.1.4.39.", "1.2.840.10008.5.1.4.43.",
                 "1.2.840.10008.5.1.4.44.", "1.2.840.10008.5.1.4.45.", "1.2.840.10008.1.3.10")  # fmt: skip
# Read of every file; what a multi-frame file says of its frames lies in the last two.
WANTED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType",
          "SeriesNumber", "SeriesDescription", "AcquisitionNumber", "InstanceNumber", "BodyPartExamined",
          "ConvolutionKernel", "SliceThickness", "ContrastBolusAgent", "GantryDetectorTilt", "Rows", "Columns",
          "SamplesPerPixel", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames",
          "WindowWidth", "RescaleType", "PhotometricInterpretation", "SpecificCharacterSet", "Manufacturer",
          "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")  # fmt: skip

# What is written for an agent where none was given. (Non-ionic ones are agents.)
NO_AGENT = re.compile(r"|0|N|NO|NON|NONE|NIL|NO[ _-].*|NON[ _-]?(CONTRAST|ENHANCED).*|WITHOUT\b.*|W/?O\b.*|OHNE\b.*|"
                      r"SANS\b.*|SENZA\b.*|SIN\b.*|NATIV.*|UNENHANCED|PLAIN")  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """One image as its header describes it; what is missing is None or empty.

    Attributes:
        source: the file.
        frame: index within a multi-frame file, else None.
        sop_class, uid, study, series: identifiers.
        modality, image_type, kernel, description, body_part: as in the header, in capitals but for the description.
        series_number, acquisition, number: of the series, the acquisition and the instance.
        rows, columns, samples: size, and values per pixel.
        spacing: mm between rows and between columns.
        position, orientation: of the first pixel, and of rows and columns; LPS, in mm.
        thickness: mm.
        tilt: degrees.
        contrast: an agent is named.
        rescale_type: what the values are after rescaling: HU, if the header says so.
        photometric: which way gray runs.
        window_width: HU; the widest of several.
    """

    source: Source
    frame: int | None
    sop_class: str
    uid: str
    study: str
    series: str
    modality: str
    image_type: tuple[str, ...]
    kernel: str
    description: str
    body_part: str
    series_number: int | None
    acquisition: int | None
    number: int | None
    rows: int
    columns: int
    samples: int
    spacing: tuple[float, ...]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    thickness: float | None
    tilt: float | None
    contrast: bool
    rescale_type: str
    photometric: str
    window_width: float | None


def read_instances(source: Source) -> list[Instance]:
    """The images of one file, by its header alone; none of an object that is of no patient.

    Raises:
        ScanError: it is no DICOM file, or says not even which series it belongs to.
    """
    header = read_dataset(source, pixels=False, only=WANTED)
    try:
        return _instances(source, header)
    except ScanError:
        raise
    except Exception as error:  # values are decoded when they are asked for; pydicom's words might quote them
        raise ScanError(f"{source}: not a readable DICOM header ({type(error).__name__})") from None


def _instances(source: Source, header: Any) -> list[Instance]:
    if str(header.get("SOPClassUID", "")).startswith(OF_NO_PATIENT) or header.get("Manufacturer") == MANUFACTURER:
        return []
    if not header.get("SeriesInstanceUID") or not header.get("SOPInstanceUID"):
        raise ScanError(f"{source}: no SeriesInstanceUID or SOPInstanceUID in the header")
    if str(header.get("SOPClassUID", "")) not in ENHANCED_CT:
        return [_instance(source, header, None, [header])]
    shared = _items(header, "SharedFunctionalGroupsSequence")[:1]
    frames = _items(header, "PerFrameFunctionalGroupsSequence")
    if not frames or len(frames) != (_whole(header.get("NumberOfFrames")) or 0):
        raise ScanError(f"{source}: an enhanced CT whose header does not describe each of its frames")
    return [_instance(source, header, number, [frame, *shared]) for number, frame in enumerate(frames)]


def read_dataset(source: Source, pixels: bool = True, only: Sequence[str] = ()) -> Any:
    """The pydicom dataset of a file.

    Args:
        source: the file.
        pixels: with them.
        only: names of elements; all if none are given.

    Raises:
        ScanError: one line that names the file.
    """
    pydicom = dicom_package("pydicom", "reading DICOM")
    options: dict[str, Any] = {"stop_before_pixels": not pixels, "specific_tags": list(only) or None}
    with source.open() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are common, and pydicom reads them anyway
        logging.getLogger("pydicom").setLevel(logging.ERROR)
        try:
            dataset = pydicom.dcmread(stream, force=True, **options)
        except Exception as error:  # whatever a broken file does to the parser
            raise ScanError(f"{source}: not a readable DICOM file ({_short(error)})") from None
    if "SOPClassUID" not in dataset:
        what = "a damaged zip archive" if source.name.lower().endswith(".zip") else "not a DICOM image"
        raise ScanError(f"{source}: {what}")
    return dataset


def _instance(source: Source, header: Any, frame: int | None, groups: Sequence[Any]) -> Instance:
    """One image, by the header of its file and, for a frame, what is said of it and of all frames."""

    def told(sequence: str, key: str) -> Any:
        """A value of the frame, which an ordinary file has at its top."""
        for group in groups:
            holder = group if frame is None else next(iter(_items(group, sequence)), None)
            if holder is not None and holder.get(key) not in (None, ""):
                return holder.get(key)
        return header.get(key)

    widths = _numbers(told("FrameVOILUTSequence", "WindowWidth"))
    return Instance(
        source, frame,
        sop_class=str(header.get("SOPClassUID", "")),
        uid=str(header.get("SOPInstanceUID")),
        study=str(header.get("StudyInstanceUID", "")),
        series=str(header.get("SeriesInstanceUID")),
        modality=_text(header.get("Modality")).upper(),
        image_type=tuple(_text(one).upper() for one in _many(told("CTImageFrameTypeSequence", "FrameType")
                                                             or header.get("ImageType"))),
        kernel=" ".join(_text(one) for one in _many(told("CTReconstructionSequence", "ConvolutionKernel"))).upper(),
        description=_text(header.get("SeriesDescription")),
        body_part=_text(header.get("BodyPartExamined")).upper(),
        series_number=_whole(header.get("SeriesNumber")),
        acquisition=_whole(header.get("AcquisitionNumber")),
        number=_whole(header.get("InstanceNumber")),
        rows=_whole(header.get("Rows")) or 0,
        columns=_whole(header.get("Columns")) or 0,
        samples=_whole(header.get("SamplesPerPixel")) or 1,
        spacing=_numbers(told("PixelMeasuresSequence", "PixelSpacing")),
        position=_numbers(told("PlanePositionSequence", "ImagePositionPatient")),
        orientation=_numbers(told("PlaneOrientationSequence", "ImageOrientationPatient")),
        thickness=next(iter(_numbers(told("PixelMeasuresSequence", "SliceThickness"))), None),
        tilt=next(iter(_numbers(told("CTGeometrySequence", "GantryDetectorTilt"))), None),
        contrast=NO_AGENT.fullmatch(_text(header.get("ContrastBolusAgent")).upper()) is None,
        rescale_type=_text(told("PixelValueTransformationSequence", "RescaleType")).upper(),
        photometric=_text(header.get("PhotometricInterpretation")).upper(),
        window_width=max(widths, default=None),
    )  # fmt: skip


def _items(dataset: Any, name: str) -> list[Any]:
    return list(dataset.get(name) or [])


def _many(value: Any) -> list[Any]:
    if value is None or isinstance(value, str | bytes):
        return [] if not value else [value]
    return list(value) if isinstance(value, Iterable) else [value]


def _text(value: Any) -> str:
    return " ".join(str(value).replace("\0", " ").split()) if value is not None else ""


def _numbers(value: Any) -> tuple[float, ...]:
    """Numbers of a value; none if one of them is not a finite number."""
    try:
        found = tuple(float(one) for one in _many(value))
    except (TypeError, ValueError):
        return ()
    return found if all(abs(one) < 1e9 for one in found) else ()


def _whole(value: Any) -> int | None:
    numbers = _numbers(value)
    return int(numbers[0]) if numbers else None


def _short(error: Exception) -> str:
    return type(error).__name__  # its words might quote the header
