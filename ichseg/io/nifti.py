"""The bytes of one NIfTI file: checked before memory is taken, and read to the end before they are believed."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor

from ichseg.errors import ScanError

SUFFIXES = (".nii.gz", ".nii")
# The first four bytes say how long the header is: 348 in NIfTI-1, 540 in NIfTI-2, either end first.
HEADER_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")
GZIP_MAGIC = b"\x1f\x8b"
# Deflate cannot pack more than this many bytes into one.
MOST_PACKED = 1032
# Voxels of more bytes than this are refused unless a larger limit is given: 512 x 512 x 1000 in float32 is half of it.
SIZE_LIMIT = 2 * 2**30
BLOCK = 2**20


def read_nifti(path: Path, size_limit: int = SIZE_LIMIT) -> tuple[np.ndarray, nib.Nifti1Header]:
    """The voxels of one file as they are stored, before scaling, and its header as it is stored.

    The header is read alone first; what it declares is compared with the file and with ``size_limit`` before anything
    large is taken. Then the file is read to its end, so that a wrong gzip checksum is seen.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        size_limit: bytes that the voxels may take, unpacked.

    Raises:
        ScanError: one line that names the file and what is wrong with it.
    """
    try:
        if path.is_dir():
            raise ScanError(f"{path}: a folder, not a NIfTI file")
        if path.exists() and not path.is_file():
            raise ScanError(f"{path}: a pipe, a socket or a device, not a file")
        packed_size = path.stat().st_size
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            _check_name(path, packed, packed_size)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            start = stream.read(540)
            needed, header = _declared(path, start)
            held = packed_size * MOST_PACKED if packed else packed_size
            if needed > held:
                raise ScanError(f"{path}: header declares {needed:,} bytes, but the file cannot hold them (truncated?)")
            if needed > size_limit:
                raise ScanError(f"{path}: {needed / 2**30:.1f} GiB of voxels exceed the limit of "
                                f"{size_limit / 2**30:.1f} GiB")  # fmt: skip
            data = bytearray(max(needed, len(start)))
            data[: len(start)] = start
            if _fill(stream, memoryview(data)[len(start) :]) < needed - len(start):
                raise ScanError(f"{path}: header declares {needed:,} bytes, but the file ends early (truncated?)")
            _read_to_end(path, stream, size_limit)
    except FileNotFoundError:
        dangling = "a link to a file that does not exist" if path.is_symlink() else "file not found"
        raise ScanError(f"{path}: {dangling}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ScanError(f"{path}: damaged or truncated gzip file ({error})") from None
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        shape, kind = header.get_data_shape(), header.get_data_dtype()
        count, offset = math.prod(shape), int(header["vox_offset"])
        return np.frombuffer(data, kind, count, offset).reshape(shape, order="F"), header
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def read_header(path: Path) -> nib.Nifti1Header:
    """The header alone, as it is stored, of a file that :func:`read_nifti` has read before.

    Raises:
        ScanError: one line that names the file and what is wrong with it.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            return _declared(path, stream.read(540))[1]
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        raise ScanError(f"{path}: can no longer be read ({error})") from None


UNREADABLE = (
    nib.spatialimages.HeaderDataError,
    nib.filebasedimages.ImageFileError,
    ValueError,
    OverflowError,
    OSError,
    TypeError,
)


def _check_name(path: Path, packed: bool, size: int) -> None:
    name = path.name.lower()
    if size == 0:
        raise ScanError(f"{path}: the file is empty")
    if packed and name.endswith(".nii"):
        raise ScanError(f"{path}: named .nii, but compressed; rename it to .nii.gz")
    if not packed and name.endswith(".gz"):
        raise ScanError(f"{path}: named .gz, but not a gzip file")


def _fill(stream: BinaryIO, room: memoryview) -> int:
    """Read until ``room`` is full or the file ends; returns the number of bytes."""
    filled = 0
    while filled < len(room) and (count := stream.readinto(room[filled : filled + BLOCK])):  # type: ignore[attr-defined]
        filled += count
    return filled


def _declared(path: Path, start: bytes) -> tuple[int, nib.Nifti1Header]:
    """Bytes up to the end of the voxels, and the header, by the header alone."""
    if len(start) < 348:
        raise ScanError(f"{path}: {len(start)} bytes is too short for a NIfTI file")
    if start[:4] not in HEADER_SIZES and start[344:346] not in (b"n+", b"ni"):
        raise ScanError(f"{path}: not a NIfTI file")
    second = start[:4] in HEADER_SIZES[2:]
    image_class = nib.Nifti2Image if second else nib.Nifti1Image
    try:
        # The fixed part alone: extensions may be of any length, and nothing here needs them.
        length = image_class.header_class.sizeof_hdr
        header = image_class.header_class(start[:length], check=False)
        with LoggingOutputSuppressor():
            header.copy().check_fix(error_level=40)  # of a copy: what it mends, such as a size of 0, is to be seen
        dimensions = [int(n) for n in header["dim"]]
        kind = header.get_data_dtype()  # bitpix only repeats what the datatype says, and is sometimes wrong
        offset = float(header["vox_offset"])
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if bytes(header["magic"].item()).rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
        raise ScanError(f"{path}: not a single-file NIfTI (magic {header['magic'].item()!r})")
    if not 1 <= dimensions[0] <= 7:
        raise ScanError(f"{path}: the header declares {dimensions[0]} dimensions; a NIfTI file has 1 to 7")
    shape = dimensions[1 : dimensions[0] + 1]
    if min(shape) < 1:
        raise ScanError(f"{path}: the volume is empty or has an invalid size: {tuple(shape)}")
    if offset == 0:  # where only one place is possible, it is often left out
        offset = length + 4
        header["vox_offset"] = offset
    if not math.isfinite(offset) or offset < length + 4:
        raise ScanError(f"{path}: invalid vox_offset {offset:g}: the header takes {length + 4} bytes")
    return int(offset) + math.prod(shape) * kind.itemsize, header


def _read_to_end(path: Path, stream: BinaryIO, limit: int) -> None:
    beyond = 0
    while block := stream.read(BLOCK):
        beyond += len(block)
        if beyond > limit:
            raise ScanError(f"{path}: more than {limit / 2**30:.1f} GiB of data after the voxels")


def _unreadable(path: Path, error: Exception) -> ScanError:
    return ScanError(f"{path}: not a readable NIfTI file ({' '.join(str(error).split())})")


def scan_name(path: str | Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_nifti(path: str | Path) -> bool:
    """True if the name ends like a NIfTI file and is not a hidden or AppleDouble file."""
    name = Path(path).name
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
