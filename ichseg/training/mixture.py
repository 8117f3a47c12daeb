"""Batches of three kinds of slice: implants, real slices without hemorrhage, real slices with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import IterableDataset

from ichseg.anatomy import intracranial_mask
from ichseg.data.packed import PackedScans, gray, hounsfield
from ichseg.data.slices import NEIGHBOR_MM
from ichseg.errors import IchsegError
from ichseg.processes import place_and_count
from ichseg.synthetic.implants.pool import BACK, ImplantPool
from ichseg.synthetic.implants.surgery import draw_surgery

GROWN = 3  # pixels around the brain's mask that may hold blood along the inner table


class SliceMixture(IterableDataset):
    """Endless variety from few scans: every batch holds the three kinds in fixed shares.

    What each teaches: an implant, the exact outline; a negative slice, that nothing there is hemorrhage, whatever it
    looks like; a positive slice, that something is, though nobody says where.

    In a process group each process gets its part of a batch of ``batch_size`` times the number of processes.

    Args:
        packed: the training scans.
        pool: implants into them.
        batch_size: slices a batch (of one process).
        batches: a pass over this data set, that is, an epoch.
        implant_share, positive_share: of a batch; the rest are real slices without hemorrhage.
        masks: index of a packed slice -> (H, W) bool, of :func:`ichseg.data.pack_masks`; without one, the mask of a
            positive slice is not known. Only for measuring what masks would be worth.
        surgery_share: of the slices without hemorrhage, those that get traces of an operation, as some implants do: an
            open skull alone is no hemorrhage.
        subtypes: of :func:`ichseg.data.pack_subtypes`, for a network that scores them.

    Items are batches already: ``image`` (B, 3, H, W) uint8; ``mask`` (B, 1, H, W) int8, -1 where it is not known, which
    is inside the skull of a positive slice; ``label`` (B,) float32; where they are given, ``subtypes`` (B, subtypes)
    int8, -1 where they are not known.

    Raises:
        IchsegError: shares that leave a kind without a slice, or scans that lack one.
    """

    def __init__(
        self,
        packed: PackedScans,
        pool: ImplantPool,
        batch_size: int = 16,
        batches: int = 100,
        implant_share: float = 0.375,
        positive_share: float = 0.25,
        masks: Mapping[int, np.ndarray] | None = None,
        surgery_share: float = 0.0,
        subtypes: np.ndarray | None = None,
    ) -> None:
        self.place, self.processes = place_and_count()
        whole = batch_size * self.processes
        self.counts = round(whole * implant_share), round(whole * positive_share)
        self.negatives = whole - sum(self.counts)
        if min(self.counts) < 0 or self.negatives < 1:
            raise IchsegError(
                f"a batch of {whole} with implant_share {implant_share} and positive_share {positive_share} "
                "leaves no slice without hemorrhage"
            )
        self.packed, self.pool, self.batches, self.masks = packed, pool, batches, masks or {}
        self.surgery_share, self.subtypes = surgery_share, subtypes
        self._inside: dict[int, np.ndarray] = {}
        self.healthy, self.bleeding = np.flatnonzero(packed.labels == 0), np.flatnonzero(packed.labels > 0)
        if not len(self.healthy) or (self.counts[1] and not len(self.bleeding)):
            kind = "without" if not len(self.healthy) else "with"
            raise IchsegError(f"no training slice {kind} hemorrhage; cannot train from slice labels")

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = np.random.default_rng(int(torch.randint(2**31, ())))  # torch's seed decides, as everywhere in training
        for _ in range(self.batches):
            yield self._batch(rng)

    def _truth(self, index: int) -> np.ndarray:
        """(H, W) int8 of a positive slice: its mask, or -1 inside the skull and 0 outside: a swollen scalp is known."""
        if (known := self.masks.get(index)) is not None:
            return known.astype(np.int8)
        if index not in self._inside:
            brain = intracranial_mask(hounsfield(self.packed.gray[index]))
            # No brain is found where the skull is open: then nothing is known.
            self._inside[index] = ndimage.binary_dilation(brain, iterations=GROWN) if brain.any() else ~brain
        return -self._inside[index].astype(np.int8)

    def _operated(self, image: np.ndarray, index: int, rng: np.random.Generator) -> np.ndarray:
        """(3, H, W), a slice and its neighbors, with traces of an operation through all of them."""
        pixel = float(self.packed.pixel_mm[int(np.searchsorted(self.packed.starts, index, side="right")) - 1])
        upward = [1, 0, 2]  # below, the slice, above: an order that is its own inverse
        spacing = (NEIGHBOR_MM, pixel, pixel)
        nothing = np.zeros(image.shape, bool)
        return gray(draw_surgery(hounsfield(image[upward]), nothing, spacing, rng, BACK)[0])[upward]

    def _batch(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        implants, positives = self.counts
        # All processes draw the same, and each makes its own part.
        drawn: list[tuple[str, int]] = [("implant", int(p)) for p in rng.integers(len(self.pool), size=implants)]
        for kind, some, count in (("healthy", self.healthy, self.negatives), ("bleeding", self.bleeding, positives)):
            drawn += [(kind, int(index)) for index in (rng.choice(some, count) if count else ())]
        seeds = rng.integers(2**63, size=len(drawn)) if self.surgery_share else np.zeros(len(drawn), np.int64)
        mine = list(zip(drawn, seeds.tolist(), strict=True))[self.place :: self.processes]
        images, masks = zip(*(self._slice(kind, index, seed) for (kind, index), seed in mine), strict=True)
        batch = {
            "image": torch.from_numpy(np.stack(images)),
            "mask": torch.from_numpy(np.stack(masks))[:, None],
            "label": torch.tensor([float(kind != "healthy") for (kind, _), _ in mine]),
        }
        if self.subtypes is None:
            return batch
        subtypes = [self.pool.subtypes(i) if kind == "implant" else self.subtypes[i] for (kind, i), _ in mine]
        return {**batch, "subtypes": torch.from_numpy(np.stack(subtypes))}

    def _slice(self, kind: str, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(3, H, W) uint8 and (H, W) int8: a slice with its neighbors, and its mask."""
        if kind == "implant":
            image, mask = self.pool[index]
            return image, mask.astype(np.int8)
        image = self.packed.gray[list(self.packed.with_neighbors(index))]
        if kind == "bleeding":
            return image, self._truth(index)
        rng = np.random.default_rng(seed)
        if self.surgery_share and rng.uniform() < self.surgery_share:
            image = self._operated(image, index, rng)
        return image, np.zeros(self.packed.gray.shape[1:], np.int8)
