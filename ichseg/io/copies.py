"""Copies of a scan that dcm2niix has resampled, known by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ichseg.io.nifti import is_nifti, scan_name

# dcm2niix adds this to the names of copies that it resampled: tilt taken out, distances of the slices made equal.
COPY = re.compile(r"(?P<name>.+?)(?P<tilt>_Tilt)?(?P<equal>_Eq)?_\d+", re.IGNORECASE)


def original_of(name: str) -> tuple[str, str] | None:
    """Name of the scan of which one is a resampled copy by its name, and how it was resampled; None for others."""
    found = COPY.fullmatch(name)
    if found is None or not (found["tilt"] or found["equal"]):
        return None
    how = "interpolated to even slice spacing" if found["equal"] else "resampled to take out the gantry tilt"
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
    return original and f"a copy of {original}, {told[1]}; skipped, so that the patient is not counted twice"


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
            return (f"slices are unevenly spaced (dcm2niix wrote {file}, an evenly spaced copy): volumes are wrong; "
                    "to measure volumes, run that copy by itself")  # fmt: skip
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
