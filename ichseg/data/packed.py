"""Scans as 8-bit slices in one small file: what training from slice labels reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ichseg.data.arrays import read_arrays, write_arrays
from ichseg.data.slices import neighbors, slice_labels_in_order, slices_first
from ichseg.errors import IchsegError, one_line
from ichseg.io import USUAL_STEP_MM, spacing_mm
from ichseg.io.geometry import runs_up
from ichseg.processes import made_once
from ichseg.progress import progress as with_progress
from ichseg.provenance import describe

# What 0 and 255 stand for: air can be told from fat, bone from blood, and half a gray level is a quarter HU.
LOW_HU, WIDTH_HU = -20.0, 120.0
# Raised when slices are packed in another way: what was packed before is then packed anew.
FORMAT = 2
# A head is this large; a scan whose spacing says otherwise is taken to say nothing.
HEAD_MM = (130.0, 250.0)
USUAL_HEAD_MM = 185.0


@dataclass
class PackedScans:
    """Slices of scans, one scan after the other, each from the skull base upward.

    Attributes:
        gray: (slices, size, size) uint8, see :func:`hounsfield`.
        labels: (slices,) 0 or 1.
        stored: (slices,) where each slice stands in its file.
        cases: of the scans.
        folds: (scans,), -1 where there is none.
        starts: (scans + 1,) first slice of each scan, and the number of slices.
        pixel_mm, step_mm: (scans,) within and between slices.
    """

    gray: np.ndarray
    labels: np.ndarray
    stored: np.ndarray
    cases: list[str]
    folds: np.ndarray
    starts: np.ndarray
    pixel_mm: np.ndarray
    step_mm: np.ndarray

    def __len__(self) -> int:
        return len(self.gray)

    def scan(self, number: int) -> slice:
        """The slices of a scan."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def with_neighbors(self, index: int) -> tuple[int, int, int]:
        """A slice, the ones 5 mm below and above; the slice itself where its scan ends."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        where = self.scan(number)
        below, above = neighbors(where.stop - where.start, float(self.step_mm[number]))
        place = index - where.start
        return index, where.start + int(below[place]), where.start + int(above[place])

    def of_folds(self, folds: Sequence[int] | None) -> PackedScans:
        """The scans of some folds; all if None.

        Raises:
            IchsegError: there is none.
        """
        chosen = [i for i, fold in enumerate(self.folds.tolist()) if folds is None or fold in folds]
        if not chosen:
            raise IchsegError(f"no packed scan in fold(s) {sorted(folds or [])}")
        slices = np.concatenate([np.arange(self.scan(i).start, self.scan(i).stop) for i in chosen])
        counts = [self.scan(i).stop - self.scan(i).start for i in chosen]
        return PackedScans(
            self.gray[slices],
            self.labels[slices],
            self.stored[slices],
            [self.cases[i] for i in chosen],
            self.folds[chosen],
            np.concatenate([[0], np.cumsum(counts)]),
            self.pixel_mm[chosen],
            self.step_mm[chosen],
        )


def hounsfield(gray: np.ndarray) -> np.ndarray:
    """8-bit values -> HU, float32."""
    return gray.astype(np.float32) * (WIDTH_HU / 255) + LOW_HU


def gray(values: np.ndarray) -> np.ndarray:
    """HU -> 8-bit values."""
    return np.clip(np.rint((values - LOW_HU) * (255 / WIDTH_HU)), 0, 255).astype(np.uint8)


def windowed(image: torch.Tensor, level: float, width: float) -> torch.Tensor:
    """8-bit values -> float32 in [0, 1] of another window (level and width in HU)."""
    values = image.float().mul_(WIDTH_HU / 255).add_(LOW_HU - (level - width / 2)).div_(width)
    return values.clamp_(0, 1)


class PackedSlices(Dataset):
    """Every slice of a pack with its neighbors: ``image`` (3, H, W) in [0, 1] and its ``label``.

    Args:
        packed: the scans.
        level, width: the window in HU.
    """

    def __init__(self, packed: PackedScans, level: float = 50.0, width: float = 100.0) -> None:
        self.packed, self.level, self.width = packed, level, width

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = torch.from_numpy(self.packed.gray[list(self.packed.with_neighbors(index))])
        return {
            "image": windowed(image, self.level, self.width),
            "label": torch.tensor(float(self.packed.labels[index])),
        }


def pack_scans(
    data: Sequence[dict[str, Any]],
    transform: Callable[[dict[str, Any]], dict[str, Any]],
    folder: str | Path | None = None,
    about: Any = None,
    folds: Sequence[int] | None = None,
) -> PackedScans:
    """Pack scans, or read what was packed before.

    Args:
        data: of :func:`ichseg.data.load_datalist`, with ``slice_labels``.
        transform: leaves ``image`` as (1, X, Y, Z) MetaTensor in HU, square slices along the last axis.
        folder: keeps the pack as ``slices.npz``; one that was made of the same scans (names, sizes, dates, labels,
            folds) with the same transform and ``about`` is read. None keeps none.
        about: what the transform depends on and does not show, such as the size.
        folds: give these only; all are packed.

    Raises:
        IchsegError: names the scan that cannot be used.
    """
    if folder is None:
        return _packed(data, transform).of_folds(folds)
    file = Path(folder) / "slices.npz"
    known = [(scan["image"], scan.get("slice_labels"), scan.get("fold")) for scan in data]
    files = [Path(scan["image"]).stat() for scan in data]
    made_of = [FORMAT, about, describe(transform), known, [(stat.st_size, stat.st_mtime_ns) for stat in files]]

    def read() -> PackedScans | None:
        found = read_arrays(file, made_of)
        return None if found is None else PackedScans(cases=found[0], **found[1])

    def make() -> PackedScans:
        packed = _packed(data, transform)
        arrays = {name: value for name, value in vars(packed).items() if name != "cases"}
        write_arrays(file, made_of, packed.cases, arrays)
        return packed

    return made_once(read, make).of_folds(folds)


def _packed(data: Sequence[dict[str, Any]], transform: Callable[[dict[str, Any]], dict[str, Any]]) -> PackedScans:
    parts: dict[str, list[Any]] = {name: [] for name in ("gray", "labels", "stored", "pixel", "step", "folds")}
    for scan in with_progress(data, "packing scans"):
        try:
            item = transform(dict(scan))
        except Exception as error:  # any reader or transform error, told with the file it concerns
            message = one_line(error)
            where = "" if scan["image"] in message else f"{scan['image']}: "
            raise IchsegError(f"{where}{message}") from error
        affine = np.asarray(item["image"].affine)
        before = np.asarray(item["image"].meta.get("original_affine", affine))
        slices = slices_first(item["image"].as_tensor(), affine, before)[:, 0].numpy()
        stored = slice_labels_in_order(range(len(slices)), before, affine)
        given = scan["slice_labels"]
        if len(given) != len(slices):
            raise IchsegError(
                f"{scan['image']}: {len(slices)} slices, but the datalist lists {len(given)} slice_labels"
            )
        upward = 1 if runs_up(affine[:3, 2]) else -1
        pixel, _, step = spacing_mm(affine)
        size = slices.shape[1]
        parts["gray"].append(gray(slices[::upward]))
        parts["labels"].append(np.asarray(given)[stored][::upward])
        parts["stored"].append(np.asarray(stored)[::upward])
        parts["pixel"].append(pixel if HEAD_MM[0] < pixel * size < HEAD_MM[1] else USUAL_HEAD_MM / size)
        parts["step"].append(step if 0.3 < step < 15 else USUAL_STEP_MM)
        parts["folds"].append(int(scan.get("fold", -1)))
    counts = [len(slices) for slices in parts["gray"]]
    return PackedScans(
        np.concatenate(parts["gray"]),
        np.concatenate(parts["labels"]).astype(np.int8),
        np.concatenate(parts["stored"]).astype(np.int32),
        [scan["case"] for scan in data],
        np.array(parts["folds"]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.array(parts["pixel"], dtype=np.float32),
        np.array(parts["step"], dtype=np.float32),
    )
