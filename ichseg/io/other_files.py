"""What a folder holds besides head CT: scouts, dose reports, other formats."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from ichseg.io.nifti import is_nifti, scan_name
from ichseg.io.walk import walk

SCOUT_SLICES = 3
ROI = re.compile(r".+_ROI\d+", re.IGNORECASE)
PLANES = ("sagittal", "coronal")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
OTHER_FORMATS = {**dict.fromkeys(DICOM_ENDINGS, "DICOM"), ".nrrd": "NRRD", ".nhdr": "NRRD",
                 ".mha": "MetaImage", ".mhd": "MetaImage", ".hdr": "Analyze", ".mgz": "MGH", ".mgh": "MGH"}  # fmt: skip
DICOM_PREAMBLE = 128


def other_picture(path: Path, stored: np.ndarray, affine: np.ndarray) -> str | None:
    """What a file holds that is no scan: a few words, or None for what may be one.

    Args:
        path: of the file.
        stored: (X, Y, Z) voxels as stored.
        affine: (4, 4) voxel-to-RAS matrix.
    """
    if stored.dtype.names:
        return "an RGB picture, not Hounsfield units: a dose report or a screenshot?"
    if ROI.fullmatch(scan_name(path)) and len(np.unique(stored)) <= 2:
        return "a region of interest, not a scan"
    for axis, (world, _) in enumerate(io_orientation(affine)):
        if world < 2 and stored.shape[axis] <= SCOUT_SLICES < min(np.delete(stored.shape, axis)):
            count = "one" if stored.shape[axis] == 1 else str(stored.shape[axis])
            slices = "slice" if count == "one" else "slices"
            return f"{count} {PLANES[int(world)]} {slices}, not a scan of the head: a scout?"
    return None


def has_dicom() -> bool:
    """True if DICOM can be read."""
    return importlib.util.find_spec("pydicom") is not None


def other_formats(folder: Path, exclude: Path | None = None) -> Counter[str]:
    """How many files below a folder are images of formats that are not read here."""
    found: Counter[str] = Counter()
    for here, _, names in walk(folder, exclude, lambda error: None):  # told when scans were looked for
        for name in names:
            if not is_nifti(name) and (kind := other_format(here / name)):
                found[kind] += 1
    return found


def what_to_do(found: Counter[str]) -> str:
    """``28 DICOM and 1 NRRD files: convert to NIfTI first; for DICOM: pip install "ichseg[dicom]"``."""
    kinds = " and ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    files = f"{kinds} file{'s' if sum(found.values()) > 1 else ''}"
    if set(found) == {"DICOM"}:
        return files if has_dicom() else f'{files}: pip install "ichseg[dicom]" to read them'
    how = '; for DICOM: pip install "ichseg[dicom]"' if "DICOM" in found and not has_dicom() else ""
    return f"{files}: convert to NIfTI first{how}"


def other_format(path: Path) -> str | None:
    """``DICOM``, ``NRRD``, ...: what images that are not read here are, by their names or first bytes."""
    return OTHER_FORMATS.get(path.suffix.lower()) or ("DICOM" if is_dicom(path) else None)


def is_dicom(path: Path) -> bool:
    """True for a file that is named like DICOM or begins like it: many have no ending, or one of their own."""
    if path.suffix.lower() in DICOM_ENDINGS:
        return True
    try:
        with path.open("rb") as stream:
            stream.seek(DICOM_PREAMBLE)
            return stream.read(4) == b"DICM"
    except OSError:
        return False
