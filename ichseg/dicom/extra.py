"""The packages of the extra ``ichseg[dicom]``: imported when needed, named when they are not there."""

from __future__ import annotations

import importlib
from typing import Any

from ichseg.errors import IchsegError


def dicom_package(name: str, purpose: str) -> Any:
    """A module of the extra.

    Args:
        name: such as ``"pydicom"``.
        purpose: for the error, such as ``"reading DICOM"``.

    Raises:
        IchsegError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise IchsegError(f'{purpose} needs {error.name}: pip install "ichseg[dicom]"') from None
