"""Names of what is not on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REMOTE = "remote"  # key of a scan's data dictionary: its URL, bytes and version


def is_url(name: object) -> bool:
    """True for ``s3://...``, ``gs://...`` and what else fsspec opens."""
    return "://" in str(name)


def source_of(case: Mapping[str, Any]) -> str:
    """Where a scan comes from: its URL, or its file."""
    return str(case[REMOTE]["url"] if REMOTE in case else case["image"])
