"""Which files of a folder are scans."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ichseg.errors import IchsegError, ScanError
from ichseg.io.nifti import SUFFIXES, is_nifti, read_header, scan_name
from ichseg.io.other_files import other_format, other_formats, what_to_do
from ichseg.io.volume import OWN_MASK, OWN_SCAN
from ichseg.io.walk import Unreadable, refuse, walk

MASK_POSTFIXES = ("_ich", "_pseudo")
PROBABILITY_POSTFIX = "_probability"
SCANS = "scans"  # the folder of scans that were DICOM, within the output folder
# Key of a data dictionary: the folder that subfolders of outputs are relative to, in place of a data_root_dir.
ROOT = "data_root"
OUTPUT_POSTFIXES = (*MASK_POSTFIXES, PROBABILITY_POSTFIX)


def is_own_mask(path: Path) -> bool:
    """True for a mask that ichseg wrote: its name ends like one and its header says so."""
    return scan_name(path).endswith(OUTPUT_POSTFIXES) and _says(path) == OWN_MASK


def is_own_scan(path: Path) -> bool:
    """True for a scan that ichseg wrote from DICOM, by its header."""
    return _says(path) == OWN_SCAN


def is_probability(path: str | Path) -> bool:
    """True for a file named as ichseg names probabilities."""
    return is_nifti(path) and scan_name(path).endswith(PROBABILITY_POSTFIX)


def _says(path: Path) -> str:
    """What stands in the header of a file under ``descrip``; nothing if it cannot be read."""
    try:
        return bytes(read_header(path)["descrip"].item()).rstrip(b"\0").decode("latin-1")
    except ScanError:
        return ""


def check_output_folder(path: str | Path) -> None:
    """Refuse a file's name where a folder for masks is meant, and a folder that nothing can be written to.

    Raises:
        IchsegError: it is one.
    """
    path = Path(path)
    if path.is_dir() and not os.access(path, os.W_OK):
        raise IchsegError(f"{path}: cannot be written to (permission denied)")
    if path.is_file() or (is_nifti(path) and not path.is_dir()):
        raise IchsegError(f"{path}: OUTPUT is a folder that gets one mask per scan; name a folder, not a file "
                          "(for one file: ichseg.segment in Python)")  # fmt: skip


def subfolder(scan: str | Path, root: str) -> Path:
    """Folder of a scan below ``root``, for its outputs; none without a root.

    A scan that is a link belongs to the folder the link lies in.
    """
    # Not resolved: a link lies where its name says. But ".." is no folder.
    return Path(os.path.abspath(scan)).parent.relative_to(os.path.abspath(root)) if root else Path()  # noqa: PTH100


def find_scans(path: str | Path, exclude: str | Path | None = None) -> list[Path]:
    """Every NIfTI scan at or below ``path``, sorted; otherwise like :func:`each_scan`."""
    return sorted(each_scan(path, exclude))


def each_scan(
    path: str | Path, exclude: str | Path | None = None, unreadable: Unreadable = refuse, may_lack: bool = False
) -> Iterator[Path]:
    """Every NIfTI scan at or below ``path``, as it is found; own masks are left out.

    Args:
        path: a NIfTI file or a folder.
        exclude: a folder to leave out, such as an output folder inside the input folder; of one that is the input
            folder itself, the scans that were made of DICOM.
        unreadable: see :func:`ichseg.io.walk.walk`.
        may_lack: a folder may hold none.

    Raises:
        IchsegError: ``path`` does not exist or holds no scan.
    """
    path, found = Path(path), False
    if path.is_file():
        yield from _named_nifti(path)
        return
    if not path.is_dir():
        raise IchsegError(f"{path}: no such file or folder")
    masks, troubles = 0, list[OSError]()

    def told(error: OSError) -> None:
        troubles.append(error)
        unreadable(error)

    for file in nifti_below(path, exclude, told):
        if file.is_dir() or not is_own_mask(file):
            found = True
            yield file
        else:
            masks += 1
    if masks and not (found or may_lack or troubles):
        raise IchsegError(f"{path}: holds masks made by ichseg ({masks}) and no scan; name the folder of the scans")
    if not (found or may_lack or troubles):
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
    below = nifti_below(Path(path), exclude, lambda error: None)  # told when scans were looked for
    return (file for file in below if file.is_file() and is_own_mask(file))


def _named_nifti(path: Path) -> list[Path]:
    if not path.name.lower().endswith(SUFFIXES):
        other = other_format(path)
        raise IchsegError(
            f"{path}: not a .nii or .nii.gz file{f' but {other}: convert to NIfTI first' if other else ''}"
        )
    return [path]


def nifti_below(path: Path, exclude: str | Path | None, unreadable: Unreadable = refuse) -> Iterator[Path]:
    """Every NIfTI file below a folder, also those within the output folder if that is the folder itself."""
    left_out = Path(exclude).resolve() if exclude is not None else None
    in_place = left_out == path.resolve()  # own outputs are told by their names and headers
    for here, subfolders, names in walk(path, None if in_place else left_out, unreadable):
        files = (here / n for n in names if is_nifti(n))
        yield from (
            file for file in files if not (in_place and here.is_relative_to(path / SCANS) and is_own_scan(file))
        )
        # A folder that calls itself a scan and holds none: to be named, not passed over.
        yield from (here / s for s in subfolders if is_nifti(s) and not any((here / s).rglob("*.nii*")))
