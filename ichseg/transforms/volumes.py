"""Conversion between MONAI volumes and the plain tensors that the other packages work on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import orientation_ras_lps
from monai.utils.enums import MetaKeys, SpaceKeys

from ichseg.io import slice_axis
from ichseg.io.geometry import SLABS, axis_along, is_unit

SLICES_RUN = "slices_run"  # key of meta data: the direction from slice to slice, RAS
FEW_CHANNELS, MANY_CHANNELS = 4, 16  # more of the one in front and fewer at the end: channels are last
MOST_CODES, LARGEST_CODE = 64, 65535
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch can do little with them


def volume_slice_axis(volume: torch.Tensor | np.ndarray) -> int:
    """Spatial axis (0, 1, 2) that runs through the slices of (C, X, Y, Z); the last for a volume without affine.

    Of a volume whose slices were resized, it is what it was before: see :func:`remember_slices`.

    Raises:
        ValueError: another number of axes, or channels last.
    """
    shape = tuple(volume.shape)
    if len(shape) != 4:
        raise ValueError(f"expected a volume (C, X, Y, Z), not shape {shape}; EnsureChannelFirstd adds a channel axis")
    if shape[-1] <= FEW_CHANNELS < MANY_CHANNELS < shape[0]:
        raise ValueError(f"expected a volume (C, X, Y, Z), but shape {shape} has its channels last; use "
                         "EnsureChannelFirstd with channel_dim=-1")  # fmt: skip
    if not isinstance(volume, MetaTensor):
        return 2
    if SLICES_RUN in volume.meta:
        return axis_along(np.asarray(volume.affine), np.asarray(volume.meta[SLICES_RUN], dtype=float))[0]
    return slice_axis(np.asarray(volume.affine))


def remember_slices(volume: MetaTensor, axis: int, affine: np.ndarray) -> None:
    """Write down where the slices of a volume run that is about to get other pixels.

    The axis of slices is told by the lengths of a voxel's edges, which then say something else. A direction in the
    patient stays right whatever becomes of the order of axes.

    Args:
        volume: gets it in its meta data.
        axis: spatial axis (0, 1, 2) through the slices.
        affine: (4, 4) with this axis.
    """
    volume.meta[SLICES_RUN] = np.asarray(affine, dtype=float)[:3, axis].copy()


def checked_classes(values: torch.Tensor) -> torch.Tensor:
    """(C, ...) with the classes first.

    Raises:
        ValueError: so many of them that it must be another axis.
    """
    if values.ndim < 3 or len(values) > MANY_CHANNELS:
        raise ValueError(f"expected classes first, (C, X, Y, Z) or (C, H, W), not shape {tuple(values.shape)}")
    return values


def plain(volume: torch.Tensor | np.ndarray) -> torch.Tensor:
    """The volume without its meta data; a tensor of a NumPy array.

    Raises:
        TypeError: something else.
    """
    if isinstance(volume, MetaTensor):
        return volume.as_tensor()
    if isinstance(volume, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(volume, dtype=volume.dtype.newbyteorder("=")))
    if not isinstance(volume, torch.Tensor):
        raise TypeError(f"expected a tensor or an array, not {type(volume).__name__}")
    return volume


def tensor_of(volume: torch.Tensor | np.ndarray) -> torch.Tensor:
    """A tensor as it is, with its meta data; of a NumPy array, its tensor."""
    return volume if isinstance(volume, torch.Tensor) else plain(volume)


def in_ras(volume: Any) -> Any:
    """A MetaTensor whose affine leads to the left, back and head (LPS), as some readers give it, with that to RAS."""
    if not isinstance(volume, MetaTensor) or volume.meta.get(MetaKeys.SPACE) != SpaceKeys.LPS:
        return volume
    turned = cast(MetaTensor, like(volume.as_tensor(), volume))
    for name in (MetaKeys.AFFINE, MetaKeys.ORIGINAL_AFFINE):
        if name in turned.meta:
            turned.meta[name] = orientation_ras_lps(torch.as_tensor(turned.meta[name], dtype=torch.float64))
    turned.meta[MetaKeys.SPACE] = SpaceKeys.RAS
    return turned


def joined_remarks(remarks: Iterable[str]) -> str:
    """Flags or notes as one text for meta data: lists of different lengths cannot be put into a batch."""
    return "\n".join(remarks)


def remarks_of(volume: Any, name: str = "flags") -> list[str]:
    """The flags or notes in a volume's meta data."""
    told = getattr(volume, "meta", {}).get(name) or ()
    return told.split("\n") if isinstance(told, str) else list(told)


def like(values: torch.Tensor, reference: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Values with the reference's meta data; only its direction is right where sizes differ."""
    if not isinstance(reference, MetaTensor):
        return values
    made = MetaTensor(values)
    # Copies: what happens to the result must not change the trace of the volume it came from.
    made.meta, made.applied_operations = dict(reference.meta), list(reference.applied_operations)
    made.is_batch = reference.is_batch
    return made


def affine_of(volume: Any, what: str, spacing: tuple[float, ...] | None = None) -> np.ndarray:
    """(4, 4) matrix in mm of a MetaTensor; of a volume without one, that of a spacing, if there is one.

    Args:
        volume: the volume.
        what: what is known only with an affine, for the message.
        spacing: mm per axis.

    Raises:
        ValueError: the volume has no affine, and no spacing is given.
    """
    if isinstance(volume, MetaTensor):
        affine = np.asarray(volume.affine, dtype=float)
        if not is_unit(affine) or spacing is None:
            if is_unit(affine):  # what a MetaTensor has that was made without one
                told = "the affine of the volume is the identity (1 mm voxels at the origin); was the real one lost?"
                warnings.warn(f"{what}: {told}", stacklevel=4)
            return affine
    if spacing is None:
        raise ValueError(f"{what} needs an affine in mm: give a MetaTensor, or the spacing")
    return np.diag([*spacing, 1.0])


def slabs_of(volume: Any) -> tuple[float, ...] | None:
    """mm that each slice of a volume stands for, where its meta data say so (``slabs_mm``) in the order of the slices.

    They are those of the file: of a volume that has been turned since, they are not known.
    """
    meta = getattr(volume, "meta", {})
    if SLABS not in meta:
        return None
    stored = np.asarray(meta.get("original_affine"), dtype=float)
    if stored.shape != (4, 4) or not np.allclose(stored, np.asarray(volume.affine, dtype=float), atol=1e-3):
        return None
    return tuple(float(slab) for slab in meta[SLABS])


def checked_lengths(spacing: Sequence[float] | None) -> tuple[float, ...] | None:
    """Three positive numbers of mm, or None.

    Raises:
        ValueError: anything else.
    """
    if spacing is None:
        return None
    lengths = tuple(float(length) for length in spacing)
    if len(lengths) != 3 or not all(0 < length < float("inf") for length in lengths):
        raise ValueError(f"spacing must be three positive numbers of mm, not {spacing}")
    return lengths


def checked_mask(values: torch.Tensor) -> torch.Tensor:
    """(1, X, Y, Z) of whole label codes.

    Raises:
        ValueError: several channels, or values that are none: probabilities, NaN.
    """
    if len(values) != 1:
        raise ValueError(
            f"expected a mask (1, X, Y, Z), not shape {tuple(values.shape)}; AsDiscreted(argmax=True) makes one"
        )
    if values.is_floating_point() and not bool((values == values.round()).all()):
        raise ValueError(
            "expected a mask of whole label codes; threshold probabilities first (AsDiscreted or HemorrhageMaskd)"
        )
    return values


def is_label(volume: torch.Tensor | np.ndarray) -> bool:
    """True for label codes: few different whole numbers from -1 up, not all 0."""
    values = plain(volume)
    if values.dtype == torch.bool:
        return True
    if not values.numel():
        return False
    values = values.float() if values.dtype in UNSIGNED or values.is_floating_point() else values.long()
    low, high = float(values.amin()), float(values.amax())  # aminmax copies what is not contiguous
    if not (low >= -1 and high <= LARGEST_CODE and (low or high)) or bool((values != values.round()).any()):
        return False
    return int((torch.bincount((values - low).long().flatten()) > 0).sum()) <= MOST_CODES


def windowed_hounsfield(image: torch.Tensor | np.ndarray, level: float, width: float) -> np.ndarray:
    """(C, X, Y, Z) in [0, 1] -> (X, Y, Z) HU of the first channel, within the window."""
    return plain(image)[0].cpu().numpy() * width + level - width / 2
