"""Data manifests: what is known of each public data set, in ``data_manifests/*.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ichseg.bundle import resource_folder
from ichseg.errors import IchsegError


def manifest_names() -> list[str]:
    """Names of the data sets that have a manifest."""
    folder = resource_folder("data_manifests")
    return sorted(p.stem for p in folder.glob("*.json") if not p.stem.startswith("schema"))


def load_manifest(name: str) -> dict[str, Any]:
    """The manifest of one data set.

    Raises:
        IchsegError: no such manifest.
    """
    path: Path = resource_folder("data_manifests") / f"{name}.json"
    if not path.is_file():
        raise IchsegError(f"no manifest for data set '{name}'; available: {', '.join(manifest_names())}")
    return json.loads(path.read_text(encoding="utf-8"))
