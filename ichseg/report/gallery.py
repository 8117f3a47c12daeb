"""What masks got right and wrong, by slice labels: pictures for people who would rather look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ichseg.io import read_mask, read_volume, scan_name, slice_axis
from ichseg.io.geometry import LPS, turned
from ichseg.report.montage import labeled, montage, slice_picture

PER_ROW = 6


@dataclass
class Judged:
    """One slice: where it is, what its label says, how many of its pixels were marked."""

    image: str
    mask: str
    label: str | None
    index: int
    bleeds: bool
    area: int


def slice_gallery(slices: Sequence[Judged], path: str | Path) -> None:
    """Rows of slices: hemorrhage found, missed, and made up, as one PNG; scans with many marked pixels come first.

    Every picture names its scan and the number of the slice, counted from 1 as stored.

    Args:
        slices: of any number of scans; of each scan at most one a row is shown, while there are scans enough.
        path: PNG to write; nothing is written if no slice is labeled or marked positive.
    """
    kinds = {
        "labeled positive, predicted positive": [s for s in slices if s.bleeds and s.area],
        "labeled positive, predicted negative": [s for s in slices if s.bleeds and not s.area],
        "labeled negative, predicted positive": [s for s in slices if not s.bleeds and s.area],
    }
    rows = []
    for caption, found in kinds.items():
        if found:
            chosen = _chosen(sorted(found, key=lambda s: (-s.area, s.image, s.index)))
            rows.append((f"{caption} ({len(found)} slices)", [_picture(one) for one in chosen]))
    if rows:
        montage(rows, path)


def _chosen(found: list[Judged]) -> list[Judged]:
    """The middle slice of each scan, spread over the scans; a second one only where there are too few scans."""
    by_scan: dict[str, list[Judged]] = {}
    for one in found:
        by_scan.setdefault(one.image, []).append(one)
    firsts = [some[len(some) // 2] for some in by_scan.values()]
    order = firsts if len(firsts) >= PER_ROW else [*firsts, *[one for one in found if one not in firsts]][:PER_ROW]
    return [order[round(i)] for i in np.linspace(0, len(order) - 1, min(PER_ROW, len(order)))]


def _picture(one: Judged) -> Image.Image:
    volume = read_volume(one.image)
    drawn = [read_mask(one.mask), None if one.label is None else read_mask(one.label)]
    hounsfield, upward = to_the_back(volume.array, volume.affine)
    index = one.index if upward else hounsfield.shape[2] - 1 - one.index
    masks = [None if found is None else to_the_back(*found)[0][..., index] for found in drawn]
    picture = slice_picture(hounsfield[..., index], masks[0], masks[1])
    return labeled(picture, f"{scan_name(one.image)}, slice {one.index + 1}")


def to_the_back(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, bool]:
    """A volume with axes to the left, back and head of the patient, and whether slices were stored in that order."""
    return turned(array, affine, LPS)[0], bool(affine[2, slice_axis(affine)] > 0)
