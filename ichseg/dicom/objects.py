"""Results as DICOM objects: a segmentation on the very slices that came in, and a report of its measures.

Standards: Segmentation IOD (PS3.3 A.51, BINARY), TID 1500 Measurement Report (PS3.16).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ichseg.dicom.extra import dicom_package
from ichseg.dicom.files import Source
from ichseg.dicom.headers import MANUFACTURER, read_dataset
from ichseg.dicom.stacks import Stack
from ichseg.version import __version__

MODEL = "ichseg"
RESEARCH_ONLY = "Research use only; not for diagnosis"
# Numbers of the series that are added to a study, and of the objects within them.
SEGMENTATION_SERIES, REPORT_SERIES, CAPTURE_SERIES = 9100, 9101, 9102
PRIVATE_SCHEME = "99ICHSEG"
# Attributes that every composite object has, empty where the source has none (type 2), and what they may hold.
ANYTHING = re.compile(r".*", re.DOTALL)
EXPECTED = {
    "PatientID": ANYTHING, "PatientName": ANYTHING, "PatientBirthDate": re.compile(r"(\d{8})?"),
    "PatientSex": re.compile("[MFO]?"), "StudyID": ANYTHING, "StudyDate": re.compile(r"(\d{8})?"),
    "StudyTime": re.compile(r"(\d{2,6}(\.\d{1,6})?)?"), "AccessionNumber": ANYTHING, "ReferringPhysicianName": ANYTHING,
}  # fmt: skip
# Character sets that need no translation; everything else becomes Unicode.
UNICODE = "ISO_IR 192"
KNOWN_SETS = ("ISO_IR 100", UNICODE, "ISO_IR 6")


@dataclass(frozen=True)
class Origin:
    """What made a result: named in every object.

    Attributes:
        weights: SHA-256 of the weight file.
        threshold: of the probability, if it is known.
    """

    weights: str
    threshold: float | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """For the algorithm identification."""
        told = {"weights_sha256": self.weights, "use": RESEARCH_ONLY}
        return told if self.threshold is None else {**told, "threshold": f"{self.threshold:g}"}


def source_headers(stack: Stack) -> list[Any]:
    """Datasets of the images of a stack in its order, each without its pixels; a multi-frame file once.

    Missing and invalid elements are replaced, as objects that refer to the images could not be written otherwise:
    the same frame of reference, orientation and study for all, Unicode where there were
    several character sets.

    Raises:
        ScanError: a file cannot be read any more.
    """
    found: dict[Source, Any] = {}
    for one in stack.instances:
        if one.source not in found:
            found[one.source] = _mended(read_dataset(one.source, pixels=False), stack)
    first = next(iter(found.values()))
    for dataset in found.values():
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "ImageOrientationPatient", "PixelSpacing"):
            if name in first:
                setattr(dataset, name, first[name].value)
    return list(found.values())


def _mended(dataset: Any, stack: Stack) -> Any:
    """The header of one image in a form that can be referred to."""
    characters = dataset.get("SpecificCharacterSet")
    if characters and (not isinstance(characters, str) or characters not in KNOWN_SETS):
        with contextlib.suppress(LookupError, UnicodeError):
            dataset.decode()
        dataset.SpecificCharacterSet = UNICODE
    for name, form in EXPECTED.items():
        value = str(dataset.get(name) or "")
        if name not in dataset or dataset.get(name) is None or not form.fullmatch(value):
            setattr(dataset, name, "")
    if not dataset.get("StudyInstanceUID"):
        dataset.StudyInstanceUID = _uid("study", stack.first.series)
    if not dataset.get("FrameOfReferenceUID"):
        dataset.FrameOfReferenceUID = _uid("frame of reference", stack.first.series)
    if stack.first.frame is None and not dataset.get("SliceThickness"):
        dataset.SliceThickness = round(stack.step_mm, 4)
    return dataset


def segmentation(mask: np.ndarray, stack: Stack, sources: Sequence[Any], origin: Origin) -> Any:
    """A SEG object with one frame for each source image that bears a mask, which it refers to.

    Args:
        mask: (columns, rows, slices) bool, on the grid of the stack, not empty.
        stack: the images.
        sources: of :func:`source_headers`.
        origin: what made the mask.

    Returns:
        a pydicom dataset. The same mask by the same weights has the same identifiers, whenever it is written.
    """
    hd = dicom_package("highdicom", "writing DICOM")
    codes = dicom_package("pydicom.sr.codedict", "writing DICOM").codes
    frames = np.moveaxis(np.asarray(mask) > 0, (2, 1, 0), (0, 1, 2)).astype(np.uint8)
    if stack.first.frame is not None:  # in the order of the file, of which the stack may be a part
        whole = np.zeros((int(sources[0].NumberOfFrames), *frames.shape[1:]), np.uint8)
        whole[[one.frame or 0 for one in stack.instances]] = frames
        frames = whole
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Intracranial hemorrhage",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Hemorrhage,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=_algorithm(hd.AlgorithmIdentificationSequence, codes, origin),
        tracking_uid=identifier(stack, origin, "finding"),
        tracking_id="Intracranial hemorrhage",
        anatomic_regions=[codes.SCT.IntracranialStructure],
    )
    description.RecommendedDisplayCIELabValue = [34885, 53485, 50171]  # red
    with _quiet():
        made = hd.seg.Segmentation(
            source_images=list(sources),
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[description],
            series_instance_uid=identifier(stack, origin, "segmentation series"),
            series_number=SEGMENTATION_SERIES,
            sop_instance_uid=identifier(stack, origin, "segmentation", frames),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=__version__,
            device_serial_number=origin.weights[:16],
            content_label="HEMORRHAGE",
            content_description=RESEARCH_ONLY,
            omit_empty_frames=True,
        )
    made.SeriesDescription = f"ichseg {__version__}: hemorrhage"
    return made


def report(
    measured: Mapping[str, Any],
    stack: Stack,
    sources: Sequence[Any],
    origin: Origin,
    segmented: Any = None,
    probability: float | None = None,
    doubts: Sequence[str] = (),
) -> Any:
    """A structured report by TID 1500: volume, diameters, ABC/2, side; of no hemorrhage, that there is none.

    Args:
        measured: of :func:`ichseg.metrics.measure_mask`.
        stack, sources, origin: as for :func:`segmentation`.
        segmented: the SEG object it refers to; None without hemorrhage, or if none is stored.
        probability: of hemorrhage in the scan, if the network gives one.
        doubts: about the scan or the mask, in words; they become comments.
    """
    sr = dicom_package("highdicom.sr", "writing DICOM")
    codes = dicom_package("pydicom.sr.codedict", "writing DICOM").codes
    present = measured["volume_ml"] > 0
    told = [
        sorted(measured.items()),
        probability,
        list(doubts),
        None if segmented is None else str(segmented.SOPInstanceUID),
    ]
    finding = sr.QualitativeEvaluation(
        codes.SCT.IntracranialHemorrhage, codes.cid240.Present if present else codes.cid240.Absent
    )
    tracking = sr.TrackingIdentifier(identifier(stack, origin, "finding"), "Intracranial hemorrhage")
    algorithm = _algorithm(sr.AlgorithmIdentification, codes, origin)
    side = {"left": codes.SCT.Left, "right": codes.SCT.Right, "both": codes.SCT.Bilateral}.get(measured.get("side", ""))
    common: dict[str, Any] = {
        "tracking_identifier": tracking, "finding_type": codes.SCT.IntracranialHemorrhage, "algorithm_id": algorithm,
        "finding_sites": [sr.FindingSite(codes.SCT.IntracranialStructure, laterality=side)],
        "qualitative_evaluations": [finding],
        "measurements": _measurements(measured, present, probability),
    }  # fmt: skip
    if segmented is not None:
        region = sr.ReferencedSegment(
            segmented.SOPClassUID, segmented.SOPInstanceUID, 1,
            source_series=sr.SourceSeriesForSegmentation(stack.first.series),
        )  # fmt: skip
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=region, **common)
    else:
        group = sr.MeasurementsAndQualitativeEvaluations(**common)
    for doubt in doubts:
        comment = sr.TextContentItem(codes.DCM.Comment, doubt, sr.RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(comment)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=identifier(stack, origin, "device"),
        name=MODEL,
        manufacturer_name=MANUFACTURER,
        model_name=f"{MODEL} {__version__}",
    )
    context = sr.ObservationContext(sr.ObserverContext(codes.DCM.Device, device))
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=sr.CodedConcept("24725-4", "LN", "CT Head"),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=list(sources) if stack.first.frame is None else None,  # of one frame each
    )
    with _quiet():
        made = sr.Comprehensive3DSR(
            evidence=[*sources, *([] if segmented is None else [segmented])],
            content=content[0],
            series_instance_uid=identifier(stack, origin, "report series"),
            series_number=REPORT_SERIES,
            sop_instance_uid=identifier(stack, origin, "report", repr(told).encode()),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
        )
    if made.get("SpecificCharacterSet") != UNICODE and not all(map(str.isascii, doubts)):
        # Names of files, say, in letters that the source does not use.
        made.decode()
        made.SpecificCharacterSet = UNICODE
    made.SeriesDescription = f"ichseg {__version__}: measures ({RESEARCH_ONLY.lower()})"[:64]
    made.ManufacturerModelName, made.SoftwareVersions = MODEL, __version__
    scheme = dicom_package("pydicom", "writing DICOM").Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = PRIVATE_SCHEME, "ichseg"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    made.CodingSchemeIdentificationSequence = [*made.get("CodingSchemeIdentificationSequence", []), scheme]
    return made


def _measurements(measured: Mapping[str, Any], present: bool, probability: float | None) -> list[Any]:
    """Measures that are known, each with its unit."""
    sr = dicom_package("highdicom.sr", "writing DICOM")
    codes = dicom_package("pydicom.sr.codedict", "writing DICOM").codes
    milliliter = sr.CodedConcept("ml", "UCUM", "ml")
    centimeter = sr.CodedConcept("cm", "UCUM", "cm")
    none = sr.CodedConcept("1", "UCUM", "no units")

    def own(value: str, meaning: str) -> Any:
        return sr.CodedConcept(value, PRIVATE_SCHEME, meaning)

    rows = [("volume_ml", codes.SCT.Volume, milliliter)]
    if present:
        rows += [
            ("largest_ml", own("LARGEST", "Volume of the largest lesion"), milliliter),
            ("a_cm", codes.SCT.LongAxis, centimeter),
            ("b_cm", codes.SCT.ShortAxis, centimeter),
            ("c_cm", own("C", "Vertical extent of the largest lesion (C of ABC/2)"), centimeter),
            ("abc2_ml", own("ABC2", "ABC/2 volume of the largest lesion"), milliliter),
            ("lesions", own("LESIONS", "Number of lesions"), none),
        ]
    known = [(name, measured[key], unit) for key, name, unit in rows if measured.get(key) is not None]
    if probability is not None:
        known.append((own("PROBABILITY", "Probability of intracranial hemorrhage"), probability, none))
    return [sr.Measurement(name, float(value), unit) for name, value, unit in known]


def _algorithm(kind: Any, codes: Any, origin: Origin) -> Any:
    """Name, version and weights, as either of highdicom's two forms of it."""
    parameters: Any = origin.parameters
    if kind.__name__ == "AlgorithmIdentification":
        parameters = [f"{name}={value}" for name, value in parameters.items()]
    return kind(name=MODEL, family=codes.cid7162.ArtificialIntelligence, version=__version__, parameters=parameters)


def identifier(stack: Stack, origin: Origin, what: str, content: np.ndarray | bytes = b"") -> str:
    """An identifier that follows from what the object is: sent twice, it is one object."""
    data = content if isinstance(content, bytes) else np.packbits(content).tobytes()
    parts = [stack.first.series, __version__, origin.weights, str(origin.threshold), what, data.hex()]
    if what not in ("finding", "device") and not what.endswith("series"):
        parts += [f"{one.uid} {one.frame}" for one in stack.instances]  # a late image makes another object
    return _uid(*parts)


def _uid(*parts: str) -> str:
    """By PS3.5 B.2, from a UUID of 128 bits."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """highdicom tells what it changes of odd headers; that is not for the user of a folder run."""
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
