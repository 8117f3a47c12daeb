"""Where scans come from: files, DICOM, and names of what is not on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys of a scan's data dictionary: its URL, bytes and version; and what it is made of, if that is DICOM.
REMOTE, DICOM = "remote", "dicom"


def is_url(name: object) -> bool:
    """True for ``s3://...``, ``gs://...`` and what else fsspec opens."""
    return "://" in str(name)


def source_of(case: Mapping[str, Any]) -> str:
    """Where a scan comes from: its URL, or its file; of DICOM the folder, file or archive."""
    if REMOTE in case:
        return str(case[REMOTE]["url"])
    return str(case[DICOM]["place"] if DICOM in case else case["image"])
