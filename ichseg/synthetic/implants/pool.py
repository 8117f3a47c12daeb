"""A stock of implants, drawn once and pasted into slices for as long as training lasts."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ichseg.data.arrays import read_arrays, write_arrays
from ichseg.data.packed import PackedScans, gray, hounsfield
from ichseg.data.packed_subtypes import bits_of, of_bits
from ichseg.errors import IchsegError
from ichseg.processes import made_once
from ichseg.progress import progress as with_progress
from ichseg.synthetic.implants.implant import SMALLEST_MM2, implant_volume
from ichseg.synthetic.implants.surgery import draw_surgery

# Raised when implants are drawn in another way.
FORMAT = 6
BACK = (0, 1)  # packed slices are turned: rows to the left, columns to the back
# How many lesions a scan gets; and how often to try where a head has no room for the kind that was drawn.
LESIONS, LESION_SHARES, TRIES = (1, 2, 3), (0.6, 0.25, 0.15), 8


@dataclass
class Implant:
    """What differs from one packed scan, in the box that holds it.

    Attributes:
        scan: number of the scan.
        corner: first slice (within the scan), row and column of the box.
        gray: (d, h, w) uint8, the scan with the implant.
        mask: (d, h, w) bool.
        subtypes: (d,) uint8, of the hemorrhage in each slice of the box, as bits.
        slices: slices of the scan with enough of the mask to be seen, counted over all packed slices; only such as had
            no hemorrhage of their own.
    """

    scan: int
    corner: tuple[int, int, int]
    gray: np.ndarray
    mask: np.ndarray
    subtypes: np.ndarray
    slices: np.ndarray


class ImplantPool:
    """Implants into the scans of a pack, and the slices that carry them.

    Args:
        packed: the scans.
        implants: at least one.
    """

    def __init__(self, packed: PackedScans, implants: list[Implant]) -> None:
        if not implants:
            raise IchsegError("no room for an implant in any of the training scans")
        self.packed, self.implants = packed, implants
        self.index = [(number, int(s)) for number, implant in enumerate(implants) for s in implant.slices]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """A slice and its neighbors with the implant in them, (3, H, W) uint8, and the slice's mask (H, W) bool."""
        number, index = self.index[place]
        implant = self.implants[number]
        first = int(self.packed.starts[implant.scan])
        depth, height, width = implant.gray.shape
        z0, y0, x0 = implant.corner
        around = self.packed.with_neighbors(index)
        image = self.packed.gray[list(around)]
        mask = np.zeros(image.shape[1:], bool)
        for channel, at in enumerate(around):
            z = at - first - z0
            if 0 <= z < depth:
                image[channel, y0 : y0 + height, x0 : x0 + width] = implant.gray[z]
                if channel == 0:
                    mask[y0 : y0 + height, x0 : x0 + width] = implant.mask[z]
        return image, mask

    def subtypes(self, place: int) -> np.ndarray:
        """(subtypes,) int8, 0 or 1: of the hemorrhage in a slice."""
        number, index = self.index[place]
        implant = self.implants[number]
        return of_bits(int(implant.subtypes[index - int(self.packed.starts[implant.scan]) - implant.corner[0]]))


def implant_pool(
    packed: PackedScans,
    per_scan: int = 30,
    seed: int = 0,
    workers: int = 0,
    folder: str | Path | None = None,
    surgery_share: float = 0.0,
) -> ImplantPool:
    """Draw implants into every scan of a pack, or read what was drawn before.

    What a scan gets depends on the scan, the seed and ``surgery_share``, not on the other scans, so that trainings on
    other folds can share the files.

    Args:
        packed: the scans; slices with hemorrhage of their own get implants beside them, but are not used.
        per_scan: variants of each scan, each with one to three lesions.
        seed: of the implants.
        workers: processes that draw; 0: this one.
        folder: keeps them, ``implants_K.npz`` for fold K; what was made of the same scans with the same values is read.
        surgery_share: of the variants, those with traces of an operation, see :func:`draw_surgery`.

    Raises:
        IchsegError: there is no room in any scan.
    """
    implants = []
    for fold in sorted(set(packed.folds.tolist())):
        here, part = np.flatnonzero(packed.folds == fold), packed.of_folds([fold])
        for one in _of_fold(part, fold, _Drawn(part, per_scan, seed, surgery_share), workers, folder):
            scan = int(here[one.scan])
            moved = one.slices + int(packed.starts[scan]) - int(part.starts[one.scan])
            implants.append(replace(one, scan=scan, slices=moved))
    return ImplantPool(packed, implants)


def _of_fold(packed: PackedScans, fold: int, drawn: _Drawn, workers: int, folder: str | Path | None) -> list[Implant]:
    known = (packed.gray, packed.labels, packed.pixel_mm, packed.step_mm)
    sums = [zlib.crc32(np.ascontiguousarray(array).tobytes()) for array in known]
    made_of = [FORMAT, packed.cases, packed.gray.shape, sums, drawn.per_scan, drawn.seed, float(drawn.surgery_share)]
    file = None if folder is None else Path(folder) / f"implants_{fold}.npz"

    def make() -> list[Implant]:
        own = torch.Generator().manual_seed(drawn.seed)  # torch's own numbers stay as they are, drawn or read
        jobs: DataLoader = DataLoader(drawn, batch_size=None, num_workers=workers, generator=own)
        implants = [one for one in with_progress(jobs, f"drawing implants, fold {fold}") if one is not None]
        if file is not None:
            _write(file, made_of, implants)
        return implants

    return make() if file is None else made_once(lambda: _read(file, made_of), make)


class _Drawn(Dataset):
    """The implants, drawn when asked for."""

    def __init__(self, packed: PackedScans, per_scan: int, seed: int, surgery_share: float) -> None:
        self.packed, self.per_scan, self.seed, self.surgery_share = packed, per_scan, seed, surgery_share

    def __len__(self) -> int:
        return len(self.packed.cases) * self.per_scan

    def __getitem__(self, place: int) -> Implant | None:
        variant, number = divmod(place, len(self.packed.cases))
        rng = np.random.default_rng([self.seed, zlib.crc32(self.packed.cases[number].encode()), variant])
        where = self.packed.scan(number)
        spacing = (float(self.packed.step_mm[number]), *2 * [float(self.packed.pixel_mm[number])])
        image = hounsfield(self.packed.gray[where])
        mask, wanted, made = np.zeros(image.shape, bool), int(rng.choice(LESIONS, p=LESION_SHARES)), 0
        subtypes = np.zeros(len(image), np.uint8)
        for _ in range(TRIES):
            if made == wanted:
                break
            drawn = implant_volume(image, spacing, rng, back=BACK, kept=mask)  # type: ignore[arg-type]
            if drawn is not None:
                image, mask, made = drawn[0], mask | drawn[1], made + 1
                subtypes[drawn[1].any(axis=(1, 2))] |= bits_of([drawn[2]])
        if self.surgery_share and made and rng.uniform() < self.surgery_share:
            image, mask = draw_surgery(image, mask, spacing, rng, BACK)  # type: ignore[arg-type]
        after, before = gray(image), self.packed.gray[where]
        changed = np.argwhere((after != before) | mask)
        own = self.packed.labels[where] > 0
        areas = mask.sum(axis=(1, 2)) * spacing[1] ** 2
        usable = np.flatnonzero((areas >= SMALLEST_MM2) & ~own)  # what is smaller, no one would see
        if not len(changed) or not len(usable):
            return None
        low, high = changed.min(axis=0), changed.max(axis=0) + 1
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        corner = (int(low[0]), int(low[1]), int(low[2]))
        parts = after[box].copy(), mask[box].copy(), subtypes[box[0]].copy()
        return Implant(number, corner, *parts, usable + where.start)


def _write(file: Path, made_of: Any, implants: list[Implant]) -> None:
    rows = [[one.scan, *one.corner, *one.gray.shape, len(one.slices)] for one in implants]
    arrays = {
        "gray": np.concatenate([np.zeros(0, np.uint8), *(one.gray.ravel() for one in implants)]),
        "mask": np.packbits(np.concatenate([np.zeros(0, bool), *(one.mask.ravel() for one in implants)])),
        "subtypes": np.concatenate([np.zeros(0, np.uint8), *(one.subtypes for one in implants)]),
        "slices": np.concatenate([np.zeros(0, np.int64), *(one.slices for one in implants)]),
    }
    write_arrays(file, made_of, rows, arrays, compress=False)


def _read(file: Path, made_of: Any) -> list[Implant] | None:
    found = read_arrays(file, made_of)
    if found is None:
        return None
    rows, values, subtypes, slices = found[0], *(found[1][name] for name in ("gray", "subtypes", "slices"))
    masks = np.unpackbits(found[1]["mask"], count=len(values)).astype(bool)
    implants, at, layer, touched = [], 0, 0, 0
    for scan, z, y, x, d, h, w, count in rows:
        n = d * h * w
        implants.append(Implant(scan, (z, y, x), values[at : at + n].reshape(d, h, w),
                                masks[at : at + n].reshape(d, h, w), subtypes[layer : layer + d],
                                slices[touched : touched + count]))  # fmt: skip
        at, layer, touched = at + n, layer + d, touched + count
    return implants
