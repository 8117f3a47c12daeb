"""A folder of scans as a data set that survives bad files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ichseg.errors import one_line
from ichseg.io import find_masks, find_scans, scan_name


def list_scans(folder: str | Path, exclude: str | Path | None = None) -> list[dict[str, str]]:
    """Every scan at or below ``folder`` (or the one file) as ``{"case": ..., "image": ...}``.

    ``case`` is the path relative to ``folder`` without ``.nii`` or ``.nii.gz``: equal names in different folders
    stay apart. A mask that ichseg wrote is listed with the reason under ``skip``, unless input and output are one.

    Raises:
        IchsegError: nothing is there.
    """
    root = scan_root(folder)

    def case(path: Path) -> dict[str, str]:
        return {"case": str(path.relative_to(root).with_name(scan_name(path))), "image": str(path)}

    scans = [case(path) for path in find_scans(folder, exclude)]
    if exclude is not None and Path(exclude).resolve() != Path(root).resolve():
        reason = "a mask written by ichseg, not a scan"
        scans += [{**case(path), "skip": reason} for path in find_masks(folder, exclude)]
    return sorted(scans, key=lambda scan: scan["image"])


def scan_root(folder: str | Path) -> str:
    """The folder itself, or the folder of a single file."""
    folder = Path(folder)
    return str(folder.parent if folder.is_file() else folder)


class ScanDataset(Dataset):
    """Whole scans, read and preprocessed one at a time; a scan that fails becomes ``{"failed": reason}``.

    Args:
        data: data dictionaries with ``image``.
        transform: the preprocessing.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.data, self.transform = list(data), transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.transform(dict(self.data[index]))
        except Exception as error:  # whatever is wrong with one file must not stop the others
            return {**self.data[index], "failed": one_line(error)}
