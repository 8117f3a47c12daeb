"""Where voxels lie: which affine of a header to believe, which axis runs through the slices, how long edges are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # axes to the left, back and head of the patient
# Cosine between two axes of the grid above which it counts as sheared: half a degree of gantry tilt.
SHEAR = 0.0087
USUAL_STEP_MM = 5.0  # between slices of a head CT, where a file does not say
# Relative difference of pixdim and affine that is more than rounding.
DISAGREEMENT = 0.02
# Key of meta data and data dictionaries: mm that each slice stands for, where slices are not equally far apart.
SLABS = "slabs_mm"
NO_ORIENTATION = "no orientation code in the header: left and right are unreliable"
TILTED = "tilted gantry (sheared grid): volumes are right only if the slices are evenly spaced"
SIDES_DIFFER = "sform and qform disagree on left and right: the side is unknown"
LOST = "identity affine (1 mm voxels at the origin): has the file lost its affine? Volumes and side are unknown"
SIDE_UNKNOWN = (NO_ORIENTATION, SIDES_DIFFER, LOST)
NOT_AXIAL = "the thick axis does not run from foot to head: not an axial scan? The mask is unreliable"
THICK = 1.5  # times the next longer edge of a voxel: slices were acquired across this axis
# NIfTI's codes for meter and micron, in mm; without a code, or with millimeter's, lengths are in mm.
UNIT_MM = {1: 1000.0, 3: 0.001}


def slice_axis(affine: np.ndarray) -> int:
    """Index (0, 1, 2) of the array axis that runs through the slices.

    It is the one that runs most nearly from foot to head, unless another has clearly the longest voxel edge: a coronal
    or sagittal scan has slices of its own.

    Args:
        affine: (4, 4) voxel-to-RAS matrix in mm.
    """
    thick = _thick_axis(affine)
    return upright_axis(affine) if thick is None else thick


def axis_along(affine: np.ndarray, direction: np.ndarray) -> tuple[int, bool]:
    """Index (0, 1, 2) of the array axis most nearly parallel to a direction, and True if it runs the other way.

    Args:
        affine: (4, 4) voxel-to-RAS matrix.
        direction: (3,) in RAS, of any length.
    """
    columns = np.asarray(affine, dtype=float)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    cosines = direction @ columns / np.where(lengths > 0, lengths, 1.0)
    axis = int(np.argmax(np.abs(cosines)))
    return axis, bool(cosines[axis] < 0)


def runs_up(direction: np.ndarray) -> bool:
    """True if a direction (RAS) runs to the head, or, of slices that do not lie above one another, forward or right."""
    return bool(direction[np.argmax(np.abs(direction))] >= 0)


def upright_axis(affine: np.ndarray) -> int:
    """Index (0, 1, 2) of the array axis that runs most nearly from foot to head."""
    directions = np.asarray(affine, dtype=float)[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    return int(np.argmax(np.abs(directions[2]) / np.where(lengths > 0, lengths, 1.0)))


def _thick_axis(affine: np.ndarray) -> int | None:
    """The axis whose voxel edge is clearly the longest, if there is one."""
    lengths = spacing_mm(affine)
    order = np.argsort(lengths)
    return int(order[2]) if lengths[order[2]] > THICK * lengths[order[1]] else None


def spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edge lengths in mm along the three array axes."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    return float(x), float(y), float(z)


def shear(affine: np.ndarray) -> float:
    """Largest cosine between two axes of the grid; 0 for a grid of right angles."""
    directions = np.asarray(affine, dtype=float)[:3, :3]
    unit = directions / np.linalg.norm(directions, axis=0)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def same_grid(
    shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other_affine: np.ndarray
) -> bool:
    """True if two volumes have one shape and no voxel of one lies half a voxel or more from its place in the other."""
    if tuple(shape) != tuple(other_shape):
        return False
    corners = np.array(np.meshgrid(*([0, n - 1] for n in shape), 1)).reshape(4, -1)
    apart = np.abs((np.asarray(affine, dtype=float) - np.asarray(other_affine, dtype=float))[:3] @ corners)
    return bool(apart.max() < min(spacing_mm(affine)) / 2)


def turned(mask: np.ndarray, affine: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask with its axes in the order and direction of another grid: the same mask in space."""
    turn = ornt_transform(io_orientation(affine), io_orientation(wanted))
    return apply_orientation(mask, turn), affine @ inv_ornt_aff(turn, mask.shape)


def usable(affine: np.ndarray) -> bool:
    """True if the affine gives every voxel a place of its own."""
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(np.asarray(affine)[:3, :3])) > 1e-9)


def is_unit(affine: np.ndarray) -> bool:
    """True for voxels of 1 mm at the origin, axes in any direction: an array that was saved without its affine."""
    return bool(np.allclose(np.abs(affine), np.eye(4), atol=1e-4))


def believed_affine(header: nib.Nifti1Header) -> tuple[np.ndarray, list[str]]:
    """The affine of a header, and what is doubtful about it.

    The sform is believed if it has a code and is usable, else the qform if it has one, else the grid of ``pixdim``.

    Returns:
        (4, 4) float64 voxel-to-RAS matrix in mm, and one short sentence per doubt.

    Raises:
        ValueError: what is wrong, if no voxel position can be known.
    """
    mm = UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    sizes = [mm * float(n) for n in header["pixdim"][1:4]]
    if not np.isfinite(sizes).all() or 0 in sizes:
        raise ValueError(f"pixdim {_rounded(sizes)}: invalid voxel size")
    flags = []
    if min(sizes) < 0:
        flags.append(f"negative pixdim {_rounded(sizes)} treated as positive")
    repaired = header.copy()
    repaired["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    # The standard reads a qfac of 0 as 1; nibabel takes nothing but 1 and -1.
    repaired["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    sform, qform = _form(repaired, "sform"), _form(repaired, "qform")
    if sform is not None and usable(sform):
        affine = sform
    elif qform is not None and usable(qform):
        affine = qform
        if sform is not None:
            flags.append("the sform is invalid (singular or not finite); using the qform")
    elif sform is not None or qform is not None:
        raise ValueError("the affine is singular or not finite; voxel positions are unknown")
    else:
        affine = repaired.get_base_affine()
        flags.append(NO_ORIENTATION)
    if sform is not None and qform is not None and usable(qform) and affine is sform and _sides_differ(sform, qform):
        flags.append(SIDES_DIFFER)
    affine = np.diag([mm, mm, mm, 1.0]) @ affine
    if is_unit(affine):
        flags.append(LOST)
    if shear(affine) > SHEAR:
        flags.append(TILTED)
    elif not np.allclose(spacing_mm(affine), np.abs(sizes), rtol=DISAGREEMENT):
        by_affine = _rounded(spacing_mm(affine))
        flags.append(f"pixdim {_rounded(sizes)} disagrees with the affine's {by_affine} mm; using the affine")
    if slice_axis(affine) != upright_axis(affine):
        flags.append(NOT_AXIAL)
    return np.asarray(affine, dtype=np.float64), flags


def _sides_differ(sform: np.ndarray, qform: np.ndarray) -> bool:
    """True if the array axis from left to right is another one, or runs the other way, in the other form."""
    first, second = (io_orientation(form) for form in (sform, qform))
    return not np.array_equal(first[first[:, 0] == 0], second[first[:, 0] == 0])


def _form(header: nib.Nifti1Header, name: str) -> np.ndarray | None:
    """The form as a matrix, not checked; None without a code."""
    if int(header[f"{name}_code"]) <= 0:
        return None
    try:
        found: Any = header.get_sform() if name == "sform" else header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError, np.linalg.LinAlgError):  # a quaternion that is none
        return np.full((4, 4), np.nan)
    return np.asarray(found, dtype=np.float64)


def _rounded(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in np.round(numbers, 3))
