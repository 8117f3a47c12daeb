"""Secondary captures: every slice as a picture with outlines, for viewers that show no segmentations."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from ichseg.defaults import SHOWN_LEVEL, SHOWN_WIDTH
from ichseg.dicom.extra import dicom_package
from ichseg.dicom.headers import MANUFACTURER
from ichseg.dicom.objects import CAPTURE_SERIES, EXPECTED, MODEL, RESEARCH_ONLY, Origin, identifier
from ichseg.dicom.pixels import read_stack
from ichseg.dicom.stacks import Stack
from ichseg.version import __version__

QUALITY = 90
OUTLINE = (255, 60, 60)


def captures(mask: np.ndarray, stack: Stack, sources: Sequence[Any], origin: Origin) -> Iterator[Any]:
    """One object per slice, from the lowest to the highest: JPEG, brain window, outlines of the mask.

    Args:
        mask: (columns, rows, slices) bool, on the grid of the stack.
        stack, sources, origin: as for :func:`ichseg.dicom.objects.segmentation`.
    """
    voxels, _ = read_stack(stack)
    low = SHOWN_LEVEL - SHOWN_WIDTH / 2
    series = identifier(stack, origin, "capture series")
    for index in range(len(stack.instances)):
        gray = np.clip((voxels[..., index].T - low) / SHOWN_WIDTH * 255, 0, 255).astype(np.uint8)
        marked = np.asarray(mask[..., index].T) > 0
        picture = np.repeat(gray[..., None], 3, axis=2)
        picture[marked & ~ndimage.binary_erosion(marked)] = OUTLINE
        yield _capture(picture, stack, sources[0], series, index + 1, origin)


def _capture(picture: np.ndarray, stack: Stack, source: Any, series: str, number: int, origin: Origin) -> Any:
    """A Secondary Capture object (PS3.3 A.8) of an RGB picture."""
    from PIL import Image

    pydicom = dicom_package("pydicom", "writing DICOM")
    encaps = dicom_package("pydicom.encaps", "writing DICOM")
    uids = dicom_package("pydicom.uid", "writing DICOM")
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=QUALITY, subsampling=1)  # 4:2:2, as the header says
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uids.JPEGBaseline8Bit
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = uids.SecondaryCaptureImageStorage
    made.SOPInstanceUID = identifier(stack, origin, f"capture {number}", picture.tobytes())
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    if "SpecificCharacterSet" in source:
        made.SpecificCharacterSet = source.SpecificCharacterSet
    for name in ("StudyInstanceUID", *EXPECTED):
        setattr(made, name, source.get(name, ""))
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = series, CAPTURE_SERIES, number
    made.Modality, made.ConversionType = "OT", "WSD"
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = MANUFACTURER, MODEL, __version__
    made.SeriesDescription = f"ichseg {__version__}: outlines"
    made.ImageComments = RESEARCH_ONLY
    made.BurnedInAnnotation, made.BodyPartExamined = "NO", "HEAD"
    made.Rows, made.Columns = picture.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "YBR_FULL_422", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
    made.LossyImageCompressionRatio = round(picture.size / max(1, stream.tell()), 1)
    made.PatientOrientation = ""
    made.PixelData = encaps.encapsulate([stream.getvalue()])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made
