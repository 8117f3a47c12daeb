"""Where the bundles and manifests lie: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

from ichseg.errors import IchsegError


def resource_folder(name: str) -> Path:
    """Folder ``bundles`` or ``data_manifests``.

    Raises:
        IchsegError: the installation lacks the folder.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise IchsegError(f"{package}: this installation lacks its '{name}' folder; install ichseg again")


def bundle_folder(name: str) -> Path:
    """Folder of one bundle, such as ``ich_segmentation``."""
    folder = resource_folder("bundles") / name
    if not folder.is_dir():
        raise IchsegError(f"{folder}: no such bundle")
    return folder
