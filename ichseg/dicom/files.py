"""DICOM files in folders and zip archives."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ichseg.errors import ScanError
from ichseg.io.other_files import DICOM_ENDINGS, DICOM_PREAMBLE, is_dicom
from ichseg.io.walk import Unreadable, refuse, walk

# What one member of an archive may take, unpacked: more than an enhanced CT of 2,000 frames.
MEMBER_LIMIT = 2 * 2**30
DIRECTORY = "DICOMDIR"
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError, ValueError)


@dataclass(frozen=True, order=True)
class Source:
    """One file, perhaps within a zip archive.

    Attributes:
        path: of the file or the archive.
        member: name within the archive; empty for a file.
    """

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The file's name, without folders."""
        return PurePosixPath(self.member).name if self.member else self.path.name

    @property
    def folder(self) -> Path:
        """Where it lies; an archive is a folder without its ending."""
        if not self.member:
            return self.path.parent
        inside = [part for part in PurePosixPath(self.member).parent.parts if part not in ("/", "..")]
        return self.path.with_suffix("").joinpath(*inside)

    def open(self) -> BinaryIO:
        """The bytes.

        Raises:
            ScanError: they cannot be read.
        """
        try:
            if not self.member:
                return self.path.open("rb")
            archive = _archive(self.path, self.stamp())
            if archive.getinfo(self.member).file_size > MEMBER_LIMIT:
                raise ScanError(f"{self}: more than {MEMBER_LIMIT / 2**30:g} GiB, unpacked")
            return io.BytesIO(archive.read(self.member))
        except OSError as error:
            raise ScanError(f"{self}: cannot be read ({error.strerror or error})") from None
        except (*DAMAGED, KeyError) as error:
            raise ScanError(f"{self}: cannot be unpacked ({error})") from None

    def stamp(self) -> tuple[int, int]:
        """Size and time of the file: what changes with its content."""
        state = self.path.stat()
        return state.st_size, state.st_mtime_ns


def find_sources(path: Path, exclude: Path | None = None, unreadable: Unreadable = refuse) -> Iterator[Source]:
    """DICOM files at or below ``path``, also within zip archives, sorted within each folder.

    Args:
        path: a folder, a DICOM file or a zip archive.
        exclude, unreadable: see :func:`ichseg.io.walk.walk`.

    Raises:
        IchsegError: a folder cannot be read.
    """
    if path.is_file():
        yield from _one(path)
        return
    for here, _, names in walk(path, exclude, unreadable) if path.is_dir() else ():
        for name in names:
            if name.upper() != DIRECTORY:
                yield from _one(here / name)


def _one(path: Path) -> Iterator[Source]:
    if path.suffix.lower() == ".zip":
        yield from _members(path)
    elif path.is_file() and is_dicom(path):  # a pipe would never end
        yield Source(path)


def _members(path: Path) -> Iterator[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                parts = PurePosixPath(name)
                if name.endswith("/") or parts.name.upper() == DIRECTORY or parts.name.startswith((".", "__MACOSX")):
                    continue
                if parts.suffix.lower() in DICOM_ENDINGS or _begins_like_dicom(archive, name):
                    yield Source(path, name)
    except (OSError, *DAMAGED):
        yield Source(path)  # reading it says what is wrong


@lru_cache(maxsize=2)
def _archive(path: Path, stamp: tuple[int, int]) -> zipfile.ZipFile:
    """Kept open: the list of members is read once and not for every one of them."""
    return zipfile.ZipFile(path)


def _begins_like_dicom(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as stream:
            return stream.read(DICOM_PREAMBLE + 4)[DICOM_PREAMBLE:] == b"DICM"
    except (OSError, *DAMAGED):
        return True  # encrypted or damaged: reading it says so
