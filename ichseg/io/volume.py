"""Head CT volumes as NIfTI: lenient about what can be repaired, loud about what cannot."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from ichseg.errors import ScanError
from ichseg.io.atomic import atomic_path
from ichseg.io.geometry import slice_axis
from ichseg.io.hounsfield import lost_intercept

SUFFIXES = (".nii.gz", ".nii")
AIR_HU = -1000.0
SPACING_UNKNOWN = "in-plane spacing unknown"
OWN_MASK = b"ichseg"


@dataclass(frozen=True)
class Volume:
    """One scan in memory.

    Attributes:
        array: (X, Y, Z) float32, Hounsfield units, finite.
        affine: (4, 4) float64 voxel-to-RAS matrix in mm.
        path: the file it came from.
        flags: one short sentence per thing the reader had to repair or assume.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    flags: tuple[str, ...] = field(default_factory=tuple)


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


def read_volume(path: str | Path) -> Volume:
    """Read one NIfTI file as Hounsfield units.

    The whole file is read and checked (gzip checksum, declared size against real size) before voxels are
    decoded. A single volume stored as 4-D is accepted; NaN and infinite voxels become air.

    Raises:
        ScanError: one line that names the file and what is wrong with it.
    """
    path = Path(path)
    header, image = _load(path)
    flags: list[str] = []
    array = np.asanyarray(image.dataobj)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ScanError(f"{path}: expected one 3-D volume, found shape {tuple(array.shape)}")
    if 0 in array.shape:
        raise ScanError(f"{path}: the volume is empty, its shape is {tuple(array.shape)}")
    if array.dtype.kind not in "iuf":
        raise ScanError(f"{path}: voxels of type {array.dtype} are not Hounsfield units")
    array = array.astype(np.float32)
    finite = np.isfinite(array)
    if not finite.any():
        raise ScanError(f"{path}: no voxel has a finite value")
    if not finite.all():
        flags.append(f"{int((~finite).sum())} NaN or infinite voxels set to air")
        array = np.where(finite, array, np.float32(AIR_HU))
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ScanError(f"{path}: the affine is singular or not finite; voxel positions are unknown")
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        flags.append("no orientation code in the header: left and right are unreliable")
    if slice_axis(affine) != int(np.argmax(np.linalg.norm(affine[:3, :3], axis=0))) and _is_anisotropic(affine):
        flags.append("the thick axis is not foot to head: not an axial scan?")
    if lost_intercept(array):
        flags.append(
            "no rescale intercept? soft tissue lies near 1,050 instead of 40 HU; the mask is not to be trusted"
        )
    if SPACING_UNKNOWN.encode() in header["descrip"].tobytes():
        flags.append("in-plane spacing unknown: milliliters are nominal")
    return Volume(array, affine, path, tuple(flags))


def read_mask(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label volume: (X, Y, Z) integer codes and the affine.

    Raises:
        ScanError: the file cannot be read or holds no 3-D integer labels.
    """
    path = Path(path)
    _, image = _load(path)
    array = np.asanyarray(image.dataobj)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ScanError(f"{path}: expected one 3-D mask, found shape {tuple(array.shape)}")
    rounded = np.rint(array)
    if not np.array_equal(rounded, array):
        raise ScanError(f"{path}: a mask holds whole label codes, this file does not")
    return rounded.astype(np.int16), np.asarray(image.affine, dtype=np.float64)


def write_volume(path: str | Path, array: np.ndarray, affine: np.ndarray, note: str = "") -> None:
    """Write (X, Y, Z) voxels with ``affine`` as NIfTI-1, atomically; ``note`` goes into ``descrip``."""
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode()[:79]
    _save(path, image)


def write_like(path: str | Path, array: np.ndarray, reference: str | Path) -> None:
    """Write ``array`` (X, Y, Z) with the shape, both forms and both codes of the file ``reference``, atomically.

    Raises:
        ScanError: the shapes differ or ``reference`` cannot be read.
    """
    header, image = _load(Path(reference))
    shape = tuple(image.shape)
    if shape[:3] != tuple(array.shape) or shape[3:] not in ((), (1,)):
        raise ScanError(f"{reference}: the result has shape {tuple(array.shape)}, the scan has {shape}")
    # get_data_dtype keeps the mask small; slope, range and text of the scan do not apply to a mask.
    new = header.copy()
    new.set_data_dtype(array.dtype)
    new.set_slope_inter(1.0, 0.0)
    new["cal_min"], new["cal_max"], new["intent_code"] = 0, 0, 0
    new["descrip"] = OWN_MASK
    out = nib.Nifti1Image(np.asarray(array).reshape(shape), None, new)
    out.header["sform_code"], out.header["qform_code"] = header["sform_code"], header["qform_code"]
    _save(path, out)


def _is_anisotropic(affine: np.ndarray) -> bool:
    lengths = np.sort(np.linalg.norm(affine[:3, :3], axis=0))
    return bool(lengths[2] > 1.5 * lengths[1])


def _load(path: Path) -> tuple[nib.Nifti1Header, nib.Nifti1Image]:
    """Bytes -> header and lazily decoded image, with sizes compared before anything large is allocated."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ScanError(f"{path}: file not found") from None
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror})") from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)  # reads to the end and checks the checksum, unlike a lazy reader
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ScanError(f"{path}: damaged or truncated gzip file ({error})") from None
    if len(data) < 348:
        raise ScanError(f"{path}: {len(data)} bytes are too few for a NIfTI file")
    kind = nib.Nifti2Image if data[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Image
    try:
        image = kind.from_bytes(data)
        shape = tuple(int(n) for n in image.shape)
        needed = (
            int(getattr(image.dataobj, "offset", 0))
            + int(np.prod(shape, dtype=object)) * image.header["bitpix"].item() // 8
        )
        negative = any(n < 0 for n in shape)
    except (nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError, ValueError, OverflowError,
            OSError, TypeError) as error:  # fmt: skip
        raise ScanError(f"{path}: not a readable NIfTI file ({' '.join(str(error).split())})") from None
    if negative or needed > len(data):
        raise ScanError(f"{path}: the header declares {shape} voxels, the file ends before them (truncated?)")
    return image.header, image


def _save(path: str | Path, image: nib.Nifti1Image) -> None:
    with atomic_path(path) as temporary:
        if str(path).endswith(".gz"):
            # mtime 0 and no name: the same voxels give the same bytes.
            with temporary.open("wb") as raw, gzip.GzipFile("", "wb", 4, raw, mtime=0) as packed:
                packed.write(image.to_bytes())
        else:
            temporary.write_bytes(image.to_bytes())
