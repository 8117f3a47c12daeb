"""Head CT volumes as NIfTI: lenient about what can be repaired, loud about what cannot."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np

from ichseg.anatomy import NOT_A_HEAD, extent_doubts
from ichseg.errors import NotAScan, ScanError
from ichseg.io.atomic import atomic_path
from ichseg.io.copies import uneven_slices
from ichseg.io.geometry import believed_affine, slice_axis, spacing_mm, upright_axis
from ichseg.io.hounsfield import AIR_HU, intensity_doubts, size_doubts
from ichseg.io.nifti import SIZE_LIMIT, UNREADABLE, read_header, read_nifti
from ichseg.io.other_files import other_picture

NAMELESS = "the input image"  # what messages call an image that is no file
SPACING_UNKNOWN = "in-plane spacing unknown"
OWN_MASK, OWN_SCAN = "ichseg", "ichseg, from DICOM"  # in the headers of files that ichseg writes
LARGEST_CODE = 2**53
SCALING_ERROR = 1e-6
BLOCK = (64, 16, 64)  # voxels that are converted at a time
PACKING = 1  # gzip level: masks are mostly zeros


@dataclass(frozen=True)
class Volume:
    """One scan in memory.

    Attributes:
        array: (X, Y, Z) float32, Hounsfield units, finite.
        affine: (4, 4) float64 voxel-to-RAS matrix in mm.
        path: the file it came from.
        flags: one short sentence per reason to look at the scan: what had to be repaired or assumed.
        notes: one per fact that is good to know and no reason to look, such as a window.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    flags: tuple[str, ...] = field(default_factory=tuple)
    notes: tuple[str, ...] = field(default_factory=tuple)


def read_volume(path: str | Path, size_limit: int = SIZE_LIMIT) -> Volume:
    """Read one NIfTI file as Hounsfield units.

    The header is checked before memory is taken and the whole file is read before it is believed. A single volume
    stored as 4-D is accepted; NaN and infinite voxels become air; what else is doubtful is flagged.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        size_limit: bytes that the voxels may take, unpacked.

    Raises:
        NotAScan: it is no head CT, such as a scout or a picture.
        ScanError: one line that names the file and what is wrong with it.
    """
    path = Path(path)
    stored, header = read_nifti(path, size_limit)
    stored = _one_volume(path, stored, "volume")
    affine, flags = _affine(path, header)
    if (picture := other_picture(path, stored, affine)) is not None:
        raise NotAScan(f"{path}: {picture}")
    if (uneven := uneven_slices(path)) is not None:
        flags.append(uneven)
    slope = float(header["scl_slope"])
    if not np.isfinite(slope) or slope == 0:
        flags.append(f"scl_slope is {slope:g}: stored values are used unscaled")
    array, repaired = _scaled(stored, path, *_scaling(path, header))
    del stored  # what is examined next needs its own memory
    volume = _examined(array, affine, path, repaired)
    if SPACING_UNKNOWN.encode() in header["descrip"].tobytes():
        flags.append("in-plane spacing unknown: volumes are nominal")
        return replace(volume, flags=(*flags, *(doubt for doubt in volume.flags if NOT_A_HEAD not in doubt)))
    return replace(volume, flags=(*flags, *volume.flags))


def checked_volume(
    stored: np.ndarray, affine: np.ndarray, path: str | Path, slope: float = 1.0, offset: float = 0.0
) -> Volume:
    """Voxels (X, Y, Z) as a volume in Hounsfield units, with flags for what is doubtful about their values and extent.

    Args:
        stored: integers or floats, before scaling.
        affine: (4, 4) voxel-to-RAS matrix in mm.
        path: the file they came from, or a name to call them by in messages.
        slope, offset: of the scaling.

    Raises:
        ScanError: they are no numbers, or none of them is finite.
    """
    array, flags = _scaled(stored, path, slope, offset)
    return _examined(array, affine, path, flags)


def _scaled(stored: np.ndarray, path: str | Path, slope: float, offset: float) -> tuple[np.ndarray, list[str]]:
    """Finite voxels as float32, and what had to be repaired."""
    if stored.dtype.kind not in "iuf":
        raise ScanError(f"{path}: voxels of type {stored.dtype} are not Hounsfield units")
    array, finite = _hounsfield(stored, slope, offset)
    if finite == 0:
        raise ScanError(f"{path}: no voxel has a finite value")
    if finite == array.size:
        return array, []
    array[~np.isfinite(array)] = AIR_HU
    return array, [f"{array.size - finite} NaN or infinite voxels set to air"]


def _examined(array: np.ndarray, affine: np.ndarray, path: str | Path, flags: Sequence[str]) -> Volume:
    axis = slice_axis(affine)
    doubts, notes = intensity_doubts(array, axis)
    sizes, more = size_doubts(array.shape, spacing_mm(affine), axis)
    if not doubts and not sizes and axis == upright_axis(affine):  # what is no CT of a head has no parts of one
        sizes = extent_doubts(array, affine, axis)
    return Volume(array, affine, Path(path), (*flags, *doubts, *sizes), (*notes, *more))


def read_mask(path: str | Path, size_limit: int = SIZE_LIMIT) -> tuple[np.ndarray, np.ndarray]:
    """Read a label volume: (X, Y, Z) int16 codes (int64 if some are larger) and the affine.

    Raises:
        ScanError: the file cannot be read or holds no 3-D integer labels.
    """
    path = Path(path)
    stored, header = read_nifti(path, size_limit)
    stored = _one_volume(path, stored, "mask")
    if stored.dtype.kind not in "iufb":
        raise ScanError(f"{path}: voxels of type {stored.dtype} are not label codes")
    slope, offset = _scaling(path, header)
    if stored.dtype.kind == "f" or (slope, offset) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            stored = stored.astype(np.float64) * slope + offset
        codes = np.rint(stored)
        # The slope is a float32: 255 times 1/255 is not quite 1.
        most = SCALING_ERROR * max(1.0, float(np.abs(codes).max()))
        if not np.isfinite(stored).all() or np.abs(codes - stored).max() > most:
            raise ScanError(f"{path}: a mask must contain integer label codes only")
        stored = codes
    low, high = stored.min(), stored.max()
    if low < -LARGEST_CODE or high > LARGEST_CODE:
        raise ScanError(f"{path}: values from {low:g} to {high:g} are not label codes")
    fits = np.iinfo(np.int16)
    return stored.astype(np.int16 if fits.min <= low and high <= fits.max else np.int64), _affine(path, header)[0]


def write_volume(path: str | Path, array: np.ndarray, affine: np.ndarray, note: str = "") -> None:
    """Write (X, Y, Z) voxels with ``affine`` as NIfTI-1, atomically; ``note`` goes into ``descrip``."""
    save_image(path, nifti_image(array, affine, note))


def nifti_image(array: np.ndarray, affine: np.ndarray, note: str = "") -> nib.Nifti1Image:
    """(X, Y, Z) voxels with ``affine`` in both forms as NIfTI-1; ``note`` goes into ``descrip``."""
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = note.encode()[:79]
    return image


def write_like(path: str | Path, array: np.ndarray, reference: str | Path) -> None:
    """Write ``array`` (X, Y, Z) with the shape, both forms and both codes of the file ``reference``, atomically.

    Raises:
        ScanError: the shapes differ or ``reference`` cannot be read.
    """
    save_image(path, image_like(array, read_header(Path(reference)), reference))


def image_like(array: np.ndarray, header: nib.Nifti1Header, name: str | Path) -> nib.Nifti1Image:
    """``array`` (X, Y, Z) as an image with the shape, both forms and both codes of a scan's ``header``.

    Raises:
        ScanError: the shapes differ; ``name`` is the scan's.
    """
    shape = tuple(header.get_data_shape())
    if shape[:3] != tuple(array.shape) or set(shape[3:]) - {1}:
        raise ScanError(f"{name}: the result has shape {tuple(array.shape)}, but the scan has {shape}")
    # get_data_dtype keeps the mask small; slope, range and text of the scan do not apply to a mask.
    new = header.copy()
    new.set_data_dtype(array.dtype)
    new.set_slope_inter(1.0, 0.0)
    new["cal_min"], new["cal_max"], new["intent_code"] = 0, 0, 0
    new["descrip"], new["vox_offset"] = OWN_MASK, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    try:
        best = new.get_best_affine()
    except nib.spatialimages.HeaderDataError:  # such as a qfac of 0
        best = np.full((4, 4), np.nan)
    # The header's own affine leaves its forms alone; one that is no affine would be written over them.
    return kind(np.asarray(array).reshape(shape), best if np.isfinite(best).all() else None, new)  # type: ignore[no-untyped-call]


def header_affine(path: str | Path) -> np.ndarray:
    """The (4, 4) voxel-to-RAS matrix in mm of a file, by its header alone.

    Raises:
        ScanError: it cannot be read, or no voxel position can be known.
    """
    return _affine(Path(path), read_header(Path(path)))[0]


def header_doubts(path: str | Path) -> list[str]:
    """What is doubtful about where the voxels of a file lie, by its header alone; one short sentence each.

    Raises:
        ScanError: it cannot be read, or no voxel position can be known.
    """
    return _affine(Path(path), read_header(Path(path)))[1]


def _one_volume(path: Path, stored: np.ndarray, what: str) -> np.ndarray:
    """The voxels (X, Y, Z) of a file that holds one volume."""
    shape = tuple(stored.shape)
    if not (len(shape) == 3 or (len(shape) > 3 and set(shape[3:]) == {1})):
        raise ScanError(f"{path}: expected one 3-D {what}, found shape {shape}")
    return stored.reshape(shape[:3], order="F")


def _scaling(path: Path, header: nib.Nifti1Header) -> tuple[float, float]:
    """Slope and intercept of the header; 1 and 0 if it has none."""
    try:
        slope, offset = header.get_slope_inter()
    except UNREADABLE as error:
        raise ScanError(f"{path}: its voxels cannot be decoded ({' '.join(str(error).split())})") from None
    return (1.0, 0.0) if slope is None else (float(slope), float(offset or 0.0))


def _hounsfield(stored: np.ndarray, slope: float, offset: float) -> tuple[np.ndarray, int]:
    """Scaled voxels as float32, and how many of them are finite.

    A block at a time: copies stay small, and both arrays' parts stay in the cache, since a file counts its first axis
    fastest and NumPy its last.
    """
    array, finite = np.empty(stored.shape, np.float32), 0
    starts = product(*(range(0, length, step) for length, step in zip(stored.shape, BLOCK, strict=True)))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in starts:
            block = tuple(slice(low, low + step) for low, step in zip(start, BLOCK, strict=True))
            slab, here = stored[block], array[block]
            here[...] = slab if (slope, offset) == (1.0, 0.0) else slab.astype(np.float64) * slope + offset
            finite += here.size if np.isfinite(here.sum(dtype=np.float64)) else int(np.isfinite(here).sum())
    return array, finite


def _affine(path: Path, header: nib.Nifti1Header) -> tuple[np.ndarray, list[str]]:
    try:
        return believed_affine(header)
    except ValueError as error:
        raise ScanError(f"{path}: {error}") from None


def save_image(path: str | Path, image: nib.Nifti1Image, packing: int = PACKING) -> None:
    """Write an image atomically, with gzip level ``packing``; the same voxels give the same bytes."""
    with atomic_path(path) as temporary:
        if str(path).lower().endswith(".gz"):
            # neither time nor name
            with temporary.open("wb") as raw, gzip.GzipFile("", "wb", packing, raw, mtime=0) as packed:
                packed.write(image.to_bytes())
        else:
            temporary.write_bytes(image.to_bytes())
