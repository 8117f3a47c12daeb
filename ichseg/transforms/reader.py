"""Reading head CT through :mod:`ichseg.io`: a reader for MONAI's LoadImaged, and the first steps of every pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import ImageReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientation, Orientationd
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys, TraceKeys

from ichseg.errors import ScanError
from ichseg.io import SIZE_LIMIT, read_mask, read_volume, slice_axis
from ichseg.transforms.same_grid import CheckSameGridd
from ichseg.transforms.volumes import in_ras, joined_remarks


class HeadCTReader(ImageReader):
    """``LoadImaged(reader=HeadCTReader())``: checked NIfTI reading with errors that name the file.

    Unlike MONAI's own reader it takes the affine from the forms rather than rebuilding it from ``pixdim``, so
    that gantry tilt (shear) survives, and it reads to the end of the file before it believes it.

    Args:
        labels: read whole label codes instead of Hounsfield units.
        size_limit_gib: voxels that take more than this, unpacked, are refused before memory is taken.
    """

    def __init__(self, labels: bool = False, size_limit_gib: float = SIZE_LIMIT / 2**30) -> None:
        super().__init__()
        self.labels, self.size_limit = labels, int(size_limit_gib * 2**30)

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> Any:
        # Reading happens in get_data: LoadImage swallows what this method raises and tells only a summary.
        return data[0] if isinstance(data, Sequence) and not isinstance(data, str) and len(data) == 1 else data

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """The voxels (X, Y, Z) and MONAI's meta data."""
        if not isinstance(img, str | Path):
            raise ScanError(f"{img}: expected the path of one NIfTI file")
        flags: tuple[str, ...] = ()
        notes: tuple[str, ...] = ()
        if self.labels:
            array, affine = read_mask(img, self.size_limit)
        else:
            volume = read_volume(img, self.size_limit)
            array, affine, flags, notes = volume.array, volume.affine, volume.flags, volume.notes
        meta = {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "flags": joined_remarks(flags),
            "notes": joined_remarks(notes),
        }
        return array, meta


class SlicesLastd(Orientationd):
    """``Orientationd`` to the left, back and head of the patient (LPS), where the slices are axial.

    Those of a coronal scan (LIP) or a sagittal one (PIL) come last too: they are what was acquired.
    """

    CODES = ("PIL", "LIP", "LPS")
    AXES = (("L", "R"), ("P", "A"), ("I", "S"))  # named, since MONAI warns of a changing default

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, axcodes="LPS", labels=self.AXES, allow_missing_keys=allow_missing_keys)
        self.of_world_axis = [*(Orientation(codes, labels=self.AXES) for codes in self.CODES[:2]), self.ornt_transform]

    def described(self) -> dict[str, Any]:
        """For :func:`ichseg.provenance.describe`."""
        return {"keys": self.keys, "codes": self.CODES}

    def __call__(self, data: Any, lazy: bool | None = None) -> Any:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = in_ras(item[key])
            affine = np.asarray(item[key].peek_pending_affine())
            world = int(np.argmax(np.abs(affine[:3, slice_axis(affine)])))
            item[key] = self.of_world_axis[world](item[key], lazy=self.lazy if lazy is None else lazy)
        return item

    def inverse(self, data: Any) -> Any:
        item = dict(data)
        for key in self.key_iterator(item):
            # MONAI lets a transform undo only what itself has done, and knows it by its id.
            done_by = item[key].applied_operations[-1].get(TraceKeys.ID)
            transform = next((one for one in self.of_world_axis if id(one) == done_by), self.ornt_transform)
            item[key] = transform.inverse(item[key])
        return item


def head_ct_loader(
    keys: KeysCollection = "image", mask_keys: KeysCollection = (), size_limit_gib: float = SIZE_LIMIT / 2**30
) -> Compose:
    """The first steps of every pipeline: read, channel first, axes to the left, back and head of the patient (LPS).

    Args:
        keys: scans, read in Hounsfield units.
        mask_keys: masks, read as label codes; one that is absent is left out.
        size_limit_gib: as in :class:`HeadCTReader`.

    Returns:
        LoadImaged, EnsureChannelFirstd and SlicesLastd: file -> (1, X, Y, Z) MetaTensor, slices along the last axis;
        and CheckSameGridd for masks, against the first scan.
    """
    scans, masks = ensure_tuple(keys), ensure_tuple(mask_keys)
    readers: list[Any] = [HeadCTReader(labels, size_limit_gib) for labels in (False, True)]
    steps = [LoadImaged(scans, reader=readers[0])]
    if masks:
        steps.append(LoadImaged(masks, reader=readers[1], allow_missing_keys=True))
    every = (*scans, *masks)
    return Compose(
        [
            *steps,
            EnsureChannelFirstd(every, channel_dim="no_channel", allow_missing_keys=bool(masks)),
            SlicesLastd(every, allow_missing_keys=bool(masks)),
            *([CheckSameGridd(masks, scans[0], allow_missing_keys=True)] if masks else []),
        ]
    )
