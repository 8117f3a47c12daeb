"""What a folder holds besides head CT: scouts, dose reports, copies of a scan, other formats."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from ichseg.io.nifti import is_nifti, scan_name
from ichseg.io.walk import walk

SCOUT_SLICES = 3
# dcm2niix adds this to the names of copies that it resampled: tilt taken out, distances of the slices made equal.
COPY = re.compile(r"(?P<name>.+?)(?P<tilt>_Tilt)?(?P<equal>_Eq)?_\d+", re.IGNORECASE)
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


def original_of(name: str) -> tuple[str, str] | None:
    """Name of the scan of which one is a resampled copy by its name, and how it was resampled; None for others."""
    found = COPY.fullmatch(name)
    if found is None or not (found["tilt"] or found["equal"]):
        return None
    how = "interpolated to equal slice distances" if found["equal"] else "resampled to take out the gantry tilt"
    return found["name"], how


def copy_of(path: Path, file_of: Callable[[str], str | None]) -> str | None:
    """What to say of a file that is a resampled copy of another one; None if it is not.

    Args:
        path: of the file.
        file_of: name of the file that a folder and a scan's name, such as ``folder/scan``, belong to; None if none.
    """
    name = scan_name(path)
    told = original_of(name)
    if told is None:
        return None
    wanted = (file_of(str(path.with_name(one))) for one in (told[0], *_untilted(name, told[0])))
    original = next(filter(None, wanted), None)
    return original and f"a copy of {original}, {told[1]}: one patient is not counted twice"


def _untilted(name: str, original: str) -> list[str]:
    """Of ``X_Tilt_Eq_1``, whose original may be gone: ``X_Tilt_1``, of which it is a copy too."""
    found = COPY.fullmatch(name)
    if found is None or not (found["tilt"] and found["equal"]):
        return []
    return [f"{original}{found['tilt']}_{number}" for number in range(1, 4)]


def uneven_slices(path: Path) -> str | None:
    """A doubt if a copy with equal slice distances is next to a scan: then its own distances are not equal."""
    if not path.parent.is_dir():
        return None
    for name, file in _evened_out(path.parent, path.parent.stat().st_mtime_ns).get(scan_name(path).lower(), {}).items():
        if name != scan_name(path).lower():
            return (f"slices are not equally far apart ({file} is next to it): volumes are wrong; "
                    "for volumes, run that file by itself")  # fmt: skip
    return None


@lru_cache(maxsize=4)
def _evened_out(folder: Path, changed: int) -> dict[str, dict[str, str]]:
    """Names of scans, in small letters, and their copies with equal slice distances in a folder; read once."""
    found: dict[str, dict[str, str]] = {}
    for file in sorted(entry.name for entry in os.scandir(folder) if is_nifti(entry.name)):
        name = scan_name(file)
        told = COPY.fullmatch(name)
        if told is not None and told["equal"]:
            for original in (told["name"], *_untilted(name, told["name"])):
                found.setdefault(original.lower(), {})[name.lower()] = file
    return found


def other_formats(folder: Path, exclude: Path | None = None) -> Counter[str]:
    """How many files below a folder are images of formats that are not read here."""
    found: Counter[str] = Counter()
    for here, _, names in walk(folder, exclude, lambda error: None):  # told when scans were looked for
        for name in names:
            if not is_nifti(name) and (kind := _format(here / name)):
                found[kind] += 1
    return found


def what_to_do(found: Counter[str]) -> str:
    """``28 DICOM and 1 NRRD files: convert to NIfTI first; for DICOM: pip install "ichseg[dicom]"``."""
    kinds = " and ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
    files = f"{kinds} file{'s' if sum(found.values()) > 1 else ''}"
    if set(found) == {"DICOM"}:
        return f'{files}: pip install "ichseg[dicom]" to read them'
    how = '; for DICOM: pip install "ichseg[dicom]"' if "DICOM" in found else ""
    return f"{files}: convert to NIfTI first{how}"


def _format(path: Path) -> str | None:
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
