"""Masks on the grid of packed slices: for measuring what full supervision would reach, never for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ichseg.data.packed import PackedScans
from ichseg.data.slices import slices_first
from ichseg.errors import IchsegError
from ichseg.io.geometry import runs_up
from ichseg.progress import progress as with_progress


def pack_masks(
    data: Sequence[dict[str, Any]],
    packed: PackedScans,
    transform: Callable[[dict[str, Any]], dict[str, Any]],
    folds: Sequence[int] = (),
) -> dict[int, np.ndarray]:
    """Masks of the positive slices of some folds.

    Args:
        data: of :func:`ichseg.data.load_datalist`; scans with masks under ``label``.
        packed: scans that were made of the same data.
        transform: as for :func:`ichseg.data.pack_scans`, of ``image`` and ``label`` alike.
        folds: whose masks; none by default.

    Returns:
        index of a packed slice -> (H, W) bool; slices whose mask is not known, or empty, are left out.

    Raises:
        IchsegError: a scan with hemorrhage has no mask, or a fold is none of the packed ones.
    """
    if strangers := sorted(set(folds) - set(packed.folds.tolist())):
        raise IchsegError(f"mask_folds: fold(s) {', '.join(map(str, strangers))} are not training folds")
    masks: dict[int, np.ndarray] = {}
    number = {case: place for place, case in enumerate(packed.cases)}
    wanted = [scan for scan in data if scan.get("fold", -1) in folds and scan["case"] in number]
    for scan in with_progress(wanted, "packing masks") if wanted else ():
        where = packed.scan(number[scan["case"]])
        positive = np.flatnonzero(packed.labels[where] > 0)
        if not len(positive):
            continue
        if "label" not in scan:
            raise IchsegError(f"{scan['image']}: has hemorrhage, but no mask (label) in the datalist")
        item = transform(dict(scan))
        affine = np.asarray(item["image"].affine)
        before = np.asarray(item["image"].meta.get("original_affine", affine))
        slices = slices_first(item["label"].as_tensor(), affine, before)[:, 0].numpy() > 0
        upward = slices[:: 1 if runs_up(affine[:3, 2]) else -1]
        annotated = scan.get("label_slices")
        for place in positive:
            index = where.start + int(place)
            # A positive slice without a mask, or whose mask is empty, is not known: it is no background.
            if (annotated is None or int(packed.stored[index]) in annotated) and upward[place].any():
                masks[index] = upward[place]
    return masks
