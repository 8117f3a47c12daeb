"""Which scans are to be done: folders, files, patterns and tables that were named, as one list."""

from __future__ import annotations

import glob
import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.folder.manifest import is_manifest, read_manifest
from ichseg.folder.ondisk import Items, Table
from ichseg.io import scan_name
from ichseg.io.copies import copy_of
from ichseg.io.folder import each_mask, each_scan, is_own_mask
from ichseg.io.nifti import is_nifti
from ichseg.io.other_files import has_dicom, other_formats, what_to_do
from ichseg.io.walk import Unreadable
from ichseg.progress import progress

OWN = "a mask written by ichseg, not a scan"
Inputs = str | Path | Sequence[str | Path]
logger = logging.getLogger(__name__)


def list_scans(folder: Inputs, exclude: str | Path | None = None, series: str = "best") -> Items:
    """Every scan at or below ``folder`` (or the one file) as ``{"case": ..., "image": ...}``, listed on disk.

    ``case`` is the path relative to ``folder`` without ``.nii`` or ``.nii.gz``: equal names in different folders
    stay apart. With several inputs it is relative to the folder that holds them all; of files with different names it
    is the name, as if they came one by one. What is listed and not to be done has the reason under ``skip``: a mask
    that ichseg wrote, unless input and output are one, and a resampled copy of another scan.

    DICOM files and zip archives of them give a scan per series, named by its folder, see
    :func:`ichseg.dicom.list_series`; the NIfTI files they become are written to ``exclude/scans`` when they are read.

    Args:
        folder: a folder, a file, a pattern such as ``"scans/*_head.nii.gz"``, a table that names files (see
            :func:`ichseg.folder.manifest.read_manifest`), or a list of these. Files named by a table are not looked
            for here: one that is not there fails when it is read.
        exclude: a folder to leave out, such as an output folder inside the input folder.
        series: which series of a DICOM study, see :func:`ichseg.dicom.choose`.

    Raises:
        IchsegError: nothing is there.
    """
    inputs = _inputs(folder)
    root = scan_root(folder)
    closed: dict[str, str] = {}  # folders that cannot be read, and why

    def unreadable(error: OSError) -> None:
        closed[str(error.filename)] = f"{error.filename}: cannot be read ({error.strerror})"

    from_dicom = _dicom_scans(inputs, root, exclude, series, unreadable)

    def entry(image: str, skip: str | None) -> dict[str, str]:
        folder_of, name = os.path.split(image)
        case = scan_name(Path(name))
        found = {"case": os.path.relpath(os.path.join(folder_of, case), root) if root else case, "image": image}  # noqa: PTH118
        return found if skip is None else {**found, "skip": skip}

    in_tables = {path for path in _in_tables(folder) if is_nifti(path)}
    inputs = [one for one in inputs if one not in in_tables]
    listed = Table((str(path), _own(path, exclude)) for path in in_tables)  # image -> why it is not to be done
    for one in inputs:
        found = _nifti_scans(one, exclude, bool(from_dicom), unreadable)
        listed.update((str(path), _own(path, exclude) if one == path else None) for path in found)
    names = Table(_named(image) for image, _ in listed.items())
    doubles = Table((image, told) for image, _ in listed.items() if (told := copy_of(Path(image), names.get)))
    listed.update(doubles.items())
    for one in inputs:
        if one.is_dir():
            if exclude is not None and Path(exclude).resolve() != one.resolve():
                listed.set_missing((str(path), OWN) for path in each_mask(one, exclude))
            others = other_formats(one, None if exclude is None else Path(exclude).resolve())
            if exclude is not None and has_dicom():  # DICOM was looked at, see _dicom_scans
                others.pop("DICOM", None)
            if others:
                logger.warning("%s: ignored %s", one, what_to_do(others))
    broken = ({**entry(path, None), "broken": why} for path, why in sorted(closed.items()))
    return Items(itertools.chain((entry(image, skip) for image, skip in listed.items()), from_dicom, broken))


def _own(path: Path, output: str | Path | None) -> str | None:
    """Why a file that was named is not done: it is an output of the folder that the run writes to."""
    inside = output is not None and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(output))  # noqa: PTH100
    return OWN if inside and is_own_mask(path) else None


def _named(image: str) -> tuple[str, str]:
    """``folder/scan`` and ``scan.nii.gz``."""
    path = Path(image)
    return str(path.with_name(scan_name(path))), path.name


def _dicom_scans(
    inputs: Sequence[Path], root: str, output: str | Path | None, series: str, unreadable: Unreadable
) -> list[dict[str, Any]]:
    """Scans of DICOM series; none where DICOM cannot be read or there is nowhere to put them."""
    from ichseg.dicom import list_series

    if output is None or not has_dicom():
        return []
    shown = partial(progress, what="reading DICOM headers", leave=False)
    return list_series(inputs, root, Path(output), series, shown, unreadable)


def _nifti_scans(one: Path, exclude: str | Path | None, may_lack: bool, unreadable: Unreadable) -> Iterable[Path]:
    """NIfTI scans at or below an input; with DICOM scans there may be none."""
    if may_lack and one.is_file() and not is_nifti(one):
        return ()
    return each_scan(one, exclude, unreadable, may_lack)


def scan_root(folder: Inputs) -> str:
    """The folder below which subfolders are kept: the input itself, the folder of a single file, or the one that holds
    several inputs; empty for files of different names, which keep none."""
    inputs = _inputs(folder)
    if len(inputs) > 1 and all(path.is_file() or is_nifti(path) for path in inputs):
        names = [scan_name(path) for path in inputs]
        if len(set(names)) == len(names):
            return ""
    roots = [str(path if path.is_dir() else path.parent) for path in inputs]
    return roots[0] if len(roots) == 1 else os.path.commonpath(list(map(os.path.abspath, roots)))


def names_files(folder: Inputs) -> bool:
    """True if files were named and no folder or table: then OUTPUT may be filled by several runs."""
    return not _in_tables(folder) and all(path.is_file() for path in _inputs(folder))


def _in_tables(folder: Inputs) -> list[Path]:
    """The files that tables among the inputs name."""
    named = [folder] if isinstance(folder, str | Path) else list(folder)
    return [path for one in named if is_manifest(Path(one)) for path in read_manifest(Path(one))]


def _inputs(folder: Inputs) -> list[Path]:
    """The files and folders that were named, by tables too, patterns filled in."""
    named = [folder] if isinstance(folder, str | Path) else list(folder)
    found: list[Path] = []
    for one in named:
        if is_manifest(Path(one)):
            found += read_manifest(Path(one))
        elif not os.path.lexists(one) and glob.has_magic(str(one)):
            matches = sorted(glob.glob(str(one), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            if not matches:
                raise IchsegError(f"{one}: no file matches this pattern")
            found += map(Path, matches)
        else:
            found.append(Path(one))
    if not found:
        raise IchsegError("no input: name a folder or files")
    return found
