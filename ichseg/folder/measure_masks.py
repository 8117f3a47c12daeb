"""Measuring masks: one from Python, or a folder of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ichseg.anatomy import mask_doubts, midline_of
from ichseg.errors import IchsegError, ScanError
from ichseg.folder.listing import scan_root
from ichseg.folder.results import Results
from ichseg.io import find_nifti, header_doubts, read_mask, read_volume, scan_name, slice_axis
from ichseg.io.copies import original_of
from ichseg.io.folder import MASK_POSTFIXES, is_own_scan, is_probability
from ichseg.io.geometry import LOST, SIDE_UNKNOWN, TILTED, is_unit, same_grid
from ichseg.io.volume import NAMELESS, Volume
from ichseg.metrics import measure_mask

if TYPE_CHECKING:
    from ichseg.inference.images import Image
else:  # its definition imports torch and MONAI
    Image = Any

MOST_CODES = 64


def measure(mask: Image, affine: np.ndarray | None = None, image: Image | None = None) -> dict[str, Any]:
    """Volume, lesions, side and ABC/2 of one mask, see :func:`ichseg.metrics.measure_mask`.

    What is doubtful is a warning: values that are no mask's, or a scan on another grid, which gives no side.

    Args:
        mask: a NIfTI file, a nibabel image, or an array (X, Y, Z); anything above 0 is hemorrhage.
        affine: (4, 4) voxel-to-RAS matrix in mm, for arrays.
        image: the scan, for the side: a file, a nibabel image or an array on the grid of the mask.

    Raises:
        ScanError: a file cannot be used.
    """
    measured, doubts = measure_with_doubts(mask, affine, image)
    for doubt in doubts:
        warnings.warn(f"{mask if isinstance(mask, str | Path) else NAMELESS}: {doubt}", stacklevel=2)
    return measured


def measure_with_doubts(
    mask: Image, affine: np.ndarray | None = None, image: Image | None = None
) -> tuple[dict[str, Any], list[str]]:
    """:func:`measure`, and one short sentence per doubt."""
    doubts: list[str] = []
    if isinstance(mask, str | Path):
        array, affine = read_mask(mask)
        doubts += header_doubts(mask)
    else:
        array, affine, doubts = _given(mask, affine)
    array = _checked(array)
    doubts += _mask_doubts(array)
    plane = None
    if image is not None:
        volume = read_volume(image) if isinstance(image, str | Path) else _scan(image, affine)
        if not same_grid(array.shape, affine, volume.array.shape, volume.affine):
            doubts.append("the scan and the mask are not on the same grid; side unknown")
        else:
            where = volume.array, volume.affine, slice_axis(volume.affine)
            plane = midline_of(*where)
            doubts += [*volume.flags, *mask_doubts(array, affine, *where, plane)]
    if set(SIDE_UNKNOWN) & set(doubts):
        plane = None
    doubts = [doubt for doubt in dict.fromkeys(doubts) if doubt != TILTED]  # a voxel's volume follows the shear
    return measure_mask(array, affine, slice_axis(affine), plane), doubts


def measure_folder(
    masks: str | Path,
    output: str | Path | None = None,
    images: str | Path | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Results:
    """Measure every mask at or below ``masks``; one that cannot be read is a row that says so.

    Args:
        masks: a folder of masks, or one file; probabilities, and scans made of DICOM, are left out.
        output: folder for ``measures.csv`` and ``measures.jsonl``; None writes nothing.
        images: the scans, a folder laid out like ``masks`` or one file, for the side; None leaves the side out.
        progress: wraps the list of masks.

    Returns:
        the rows: ``case`` (as in the results of the scans: without ``_ich``), ``status``, what
        :func:`ichseg.metrics.measure_mask` gives, ``message``, ``file``.

    Raises:
        IchsegError: a folder is not there or holds no mask.
    """
    root = Path(scan_root(masks))
    found = [path for path in find_nifti(masks) if not _is_no_mask(path)]
    scans = None if images is None else _scans_by_case(Path(images))
    results = Results(output if output is not None else root, [str(path) for path in found], "measures", scored=False)
    names = {_case(path, root) for path in found}
    cases = {_without_postfix(name) for name in names}
    for path in progress(found):
        name = _case(path, root)
        case = _without_postfix(name)
        case = name if case != name and case in names else case  # NAME_ich beside NAME: two masks, two names
        row: dict[str, Any] = {"case": case, "status": "ok", "file": str(path)}
        try:
            image = None if scans is None else scans.get(None) or scans.get(_without_postfix(name)) or scans.get(name)
            measured, doubts = measure_with_doubts(path, image=image)
            if (copied := original_of(_without_postfix(name))) is not None and copied[0] in cases:
                doubts.append(f"mask of a copy of {copied[0]}, {copied[1]}: the patient is counted twice")
            if scans is not None and image is None:
                doubts.append(f"no scan with this name in {images}; side unknown")
            row |= {**measured, "status": "flagged" if doubts else "ok", "message": "; ".join(doubts)}
        except ScanError as error:
            row |= {"status": "failed", "stage": "read", "message": str(error).replace(f"{path}:", f"{path.name}:", 1)}
        results.add(row, write=output is not None)
    if output is not None:
        results.write()
    return results


def _given(mask: Any, affine: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Voxels, affine and doubts of a mask that is no file: files need neither torch nor MONAI."""
    from ichseg.inference.images import affine_of, given_affine, given_array, is_array, three_d

    if is_array(mask):
        array, affine = given_array(mask, affine)
        affine = given_affine(affine)
        return three_d(array, NAMELESS), affine, [LOST] if is_unit(affine) else []
    affine, doubts = affine_of(mask)
    return three_d(np.asanyarray(mask.dataobj), NAMELESS), affine, doubts


def _scan(image: Any, affine: np.ndarray) -> Volume:
    """A scan that is no file; one that does not say where it lies has the affine of its mask."""
    from ichseg.inference.images import given_volume, needs_affine

    return given_volume(image, affine if needs_affine(image) else None)


def _checked(array: np.ndarray) -> np.ndarray:
    """An array that may be a mask, as files of masks are examined when they are read."""
    if array.dtype.kind not in "iufb":
        raise ScanError(f"{NAMELESS}: voxels of type {array.dtype} are not label codes")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ScanError(f"{NAMELESS}: a mask must not contain NaN or infinite values")
        if (array != np.rint(array)).any():
            raise ScanError(f"{NAMELESS}: a mask must contain whole label codes; threshold probabilities first")
    return array


def _mask_doubts(array: np.ndarray) -> list[str]:
    low, codes = array.min(), len(np.unique(array[array > 0]))
    doubts = []
    if codes > MOST_CODES:
        doubts.append(f"{codes} different values above 0, all counted as hemorrhage: a scan, not a mask?")
    if low < 0:
        doubts.append(f"values below 0, down to {low:g}, counted as background: a scan, not a mask?")
    return doubts


def _is_no_mask(path: Path) -> bool:
    return is_probability(path) or is_own_scan(path)


def _case(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_name(scan_name(path)))


def _without_postfix(name: str) -> str:
    return next((name.removesuffix(postfix) for postfix in MASK_POSTFIXES if name.endswith(postfix)), name)


def _scans_by_case(images: Path) -> dict[str | None, Path]:
    """The scans of a folder by name; one file under None, for every mask."""
    if not images.exists():
        raise IchsegError(f"{images}: no such file or folder")
    return {None: images} if images.is_file() else {_case(path, images): path for path in find_nifti(images)}
