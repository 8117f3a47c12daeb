"""Pixels of a stack in Hounsfield units."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ichseg.dicom.extra import dicom_package
from ichseg.dicom.headers import Instance, read_dataset
from ichseg.dicom.stacks import Stack
from ichseg.errors import ScanError
from ichseg.io.hounsfield import AIR_HU

# A padding value that stands for more than this is taken for a mistake: real tissue has it.
PADDED_BELOW_HU = -200.0


def read_stack(stack: Stack) -> tuple[np.ndarray, list[str]]:
    """The voxels of a stack, and what is doubtful about them.

    Slope and intercept are those of each image; padding becomes air.

    Returns:
        (columns, rows, slices) int16 where all values are whole numbers that fit, else float32; one short sentence
        per doubt.

    Raises:
        ScanError: names the first file whose pixels cannot be read.
    """
    first = stack.first
    volume = np.empty((first.columns, first.rows, len(stack.instances)), np.float32)
    doubts: list[str] = []
    dataset, held = None, None
    for index, one in enumerate(stack.instances):
        if one.source != held:
            dataset, held = read_dataset(one.source), one.source
        volume[..., index] = _hounsfield(one, dataset, doubts).T
    whole = np.rint(volume)
    if (whole == volume).all() and abs(volume).max() < 2**15:
        return whole.astype(np.int16), list(dict.fromkeys(doubts))
    return volume, list(dict.fromkeys(doubts))


def _hounsfield(one: Instance, dataset: Any, doubts: list[str]) -> np.ndarray:
    """(rows, columns) float32."""
    stored = _stored(one, dataset)
    slope, intercept = _rescale(one, dataset, doubts)
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    padding = _padding(dataset)
    if padding is not None:
        low, high = padding
        if high * slope + intercept < PADDED_BELOW_HU:
            values[(stored >= low) & (stored <= high)] = AIR_HU
    return values


def _stored(one: Instance, dataset: Any) -> np.ndarray:
    pixels = dicom_package("pydicom.pixels", "reading DICOM")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ScanError(f"{one.source}: no pixels in the file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"  # without a word, it is the default
            array = pixels.pixel_array(dataset, index=one.frame, raw=True)
    except Exception as error:  # decoders fail in many ways
        raise ScanError(f"{one.source}: {_why(error)}") from None
    if array.shape != (one.rows, one.columns):
        raise ScanError(f"{one.source}: pixels of shape {array.shape}, but the header says {one.rows} x {one.columns}")
    return np.asarray(array)


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "Unable to decompress" in text or "missing dependencies" in text:
        return f'this compression needs more packages: pip install "ichseg[dicom]" ({text[:160]})'
    if "less than expected" in text or "number of bytes" in text or isinstance(error, EOFError):
        return "the file ends early (truncated?)"
    return f"pixels cannot be read ({text[:160] or type(error).__name__})"


def _rescale(one: Instance, dataset: Any, doubts: list[str]) -> tuple[float, float]:
    holder: Any = dataset
    if one.frame is not None:
        groups = [
            dataset.PerFrameFunctionalGroupsSequence[one.frame],
            *dataset.get("SharedFunctionalGroupsSequence", []),
        ]
        found = [item for group in groups for item in group.get("PixelValueTransformationSequence", [])]
        holder = found[0] if found else dataset
    try:
        slope, intercept = (float(holder.get(f"Rescale{name}")) for name in ("Slope", "Intercept"))
    except (TypeError, ValueError):
        doubts.append("no RescaleSlope and RescaleIntercept: stored values are used as HU")
        return 1.0, 0.0
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        doubts.append(f"RescaleSlope {slope:g}: stored values are used as HU")
        return 1.0, 0.0
    return slope, intercept


def _padding(dataset: Any) -> tuple[int, int] | None:
    """Lowest and highest stored value that stands for no measurement."""
    try:
        first = int(dataset.PixelPaddingValue)
        last = int(dataset.get("PixelPaddingRangeLimit", first))
    except (AttributeError, TypeError, ValueError):
        return None
    if dataset.get("PixelRepresentation", 0) == 1:  # the header may hold the bits of a signed number
        bits = int(dataset.get("BitsAllocated", 16))
        first, last = (n - 2**bits if n >= 2 ** (bits - 1) else n for n in (first, last))
    return min(first, last), max(first, last)
