"""Which files of a folder are scans."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ichseg.errors import IchsegError, ScanError
from ichseg.io.nifti import SUFFIXES, is_nifti, read_header, scan_name
from ichseg.io.other_files import other_formats, what_to_do
from ichseg.io.volume import OWN_MASK

MASK_POSTFIXES = ("_ich", "_pseudo")
PROBABILITY_POSTFIX = "_probability"
# Key of a data dictionary: the folder that subfolders of outputs are relative to, in place of a data_root_dir.
ROOT = "data_root"
OUTPUT_POSTFIXES = (*MASK_POSTFIXES, PROBABILITY_POSTFIX)


def is_own_mask(path: Path) -> bool:
    """True for a mask that ichseg wrote: its name ends like one and its header says so."""
    if not scan_name(path).endswith(OUTPUT_POSTFIXES):
        return False
    try:
        return bytes(read_header(path)["descrip"].item()).rstrip(b"\0") == OWN_MASK
    except ScanError:
        return False


def check_output_folder(path: str | Path) -> None:
    """Refuse a file's name where a folder for masks is meant.

    Raises:
        IchsegError: it is one.
    """
    path = Path(path)
    if path.is_file() or (is_nifti(path) and not path.is_dir()):
        raise IchsegError(f"{path}: OUTPUT is a folder that gets one mask per scan; name a folder, not a file "
                          "(for one file: ichseg.segment in Python)")  # fmt: skip


def subfolder(scan: str | Path, root: str) -> Path:
    """Folder of a scan below ``root``, for its outputs; none without a root.

    A scan that is a link belongs to the folder the link lies in.
    """
    return Path(scan).absolute().parent.relative_to(Path(root).absolute()) if root else Path()


def find_scans(path: str | Path, exclude: str | Path | None = None) -> list[Path]:
    """Every NIfTI scan at or below ``path``, sorted; otherwise like :func:`each_scan`."""
    return sorted(each_scan(path, exclude))


def each_scan(path: str | Path, exclude: str | Path | None = None) -> Iterator[Path]:
    """Every NIfTI scan at or below ``path``, in no order, as it is found; own masks are left out.

    Hidden files and folders are passed by, and links are not followed into folders.

    Args:
        path: a NIfTI file or a folder.
        exclude: a folder to leave out, such as an output folder inside the input folder.

    Raises:
        IchsegError: ``path`` does not exist or holds no scan.
    """
    path, found = Path(path), False
    if path.is_file():
        yield from _named_nifti(path)
        return
    if not path.is_dir():
        raise IchsegError(f"{path}: no such file or folder")
    for file in nifti_below(path, exclude):
        if file.is_dir() or not is_own_mask(file):
            found = True
            yield file
    if not found:
        others = other_formats(path)
        raise IchsegError(
            f"{path}: no .nii or .nii.gz file in this folder{f'; {what_to_do(others)}' if others else ''}"
        )


def find_nifti(path: str | Path) -> list[Path]:
    """Every NIfTI file at or below ``path``, sorted, whatever it holds; but for that like :func:`find_scans`.

    Raises:
        IchsegError: ``path`` does not exist or holds none.
    """
    path = Path(path)
    if path.is_file():
        return _named_nifti(path)
    found = sorted(nifti_below(path, None)) if path.is_dir() else None
    if not found:
        raise IchsegError(f"{path}: no {'such file or folder' if found is None else '.nii or .nii.gz file here'}")
    return found


def each_mask(path: str | Path, exclude: str | Path | None = None) -> Iterator[Path]:
    """Every mask that ichseg wrote below the folder ``path``; the counterpart of :func:`each_scan`."""
    return (file for file in nifti_below(Path(path), exclude) if file.is_file() and is_own_mask(file))


def _named_nifti(path: Path) -> list[Path]:
    if not path.name.lower().endswith(SUFFIXES):
        raise IchsegError(f"{path}: not a .nii or .nii.gz file")
    return [path]


def nifti_below(path: Path, exclude: str | Path | None) -> Iterator[Path]:
    """Every NIfTI file below a folder, also those within the output folder if that is the folder itself."""
    left_out = Path(exclude).resolve() if exclude is not None else None
    if left_out == path.resolve():
        left_out = None  # own outputs are told by their names and headers
    for folder, subfolders, names in os.walk(path, followlinks=False):
        here = Path(folder)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and (here / s).resolve() != left_out)
        yield from (here / n for n in names if is_nifti(n))
        # A folder that calls itself a scan and holds none: to be named, not passed over.
        yield from (here / s for s in subfolders if is_nifti(s) and not any((here / s).rglob("*.nii*")))
