"""What an implant has to know of a head: where the brain is, how deep, how dense."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import ndimage

from ichseg.anatomy import intracranial_mask

MID_BRAIN_MM2 = 16000.0
LEAST_BRAIN = 0.04  # of the slice


def sized_head(hounsfield: np.ndarray) -> HeadSlices | None:
    """One slice (H, W) as a head whose scale is guessed from the area of its brain; None where there is too little."""
    head = HeadSlices(hounsfield[None], pixel=1.0, step=1.0)
    pixels = float(head.areas[0])
    if pixels < LEAST_BRAIN * hounsfield.size:
        return None
    sized = HeadSlices(hounsfield[None], pixel=float(np.sqrt(MID_BRAIN_MM2 / pixels)), step=5.0)
    sized.brain = head.brain
    return sized


class HeadSlices:
    """A stack of slices; everything about a slice is worked out when it is first asked for.

    Args:
        hounsfield: (slices, H, W) HU, from the skull base upward.
        pixel: mm per pixel in plane.
        step: mm between slices.
        back: direction (rows, columns) of the patient's back, if it is known.
        kept: (slices, H, W) bool: what must not be moved, such as hemorrhage whose mask is known.
    """

    def __init__(
        self,
        hounsfield: np.ndarray,
        pixel: float,
        step: float,
        back: tuple[int, int] | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self.hounsfield = np.asarray(hounsfield, dtype=np.float32)
        self.back, self.kept = back, kept
        self.pixel, self.step = pixel, step
        self._depth: dict[int, np.ndarray] = {}
        self._smooth: dict[int, np.ndarray] = {}

    @cached_property
    def brain(self) -> np.ndarray:
        """(slices, H, W) bool: inside the skull."""
        return np.stack([intracranial_mask(one) for one in self.hounsfield])

    def yielding(self, index: int) -> np.ndarray:
        """(H, W) bool: brain that a lesion may push aside."""
        return self.brain[index] if self.kept is None else self.brain[index] & ~self.kept[index]

    @cached_property
    def areas(self) -> np.ndarray:
        """(slices,) mm^2 of brain."""
        return self.brain.sum(axis=(1, 2)) * self.pixel**2

    def upper(self, index: int) -> bool:
        """True from about the widest slice upward, where deep fluid is ventricle; below, it may be a cistern."""
        return len(self.areas) > 1 and index >= int(self.areas.argmax()) - 1

    @cached_property
    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) mm along rows and columns."""
        rows, columns = np.indices(self.hounsfield.shape[1:], dtype=np.float32)
        return rows * self.pixel, columns * self.pixel

    def depth(self, index: int) -> np.ndarray:
        """(H, W) mm from the inner table, in plane; 0 outside the brain."""
        if index not in self._depth:
            self._depth[index] = ndimage.distance_transform_edt(self.brain[index], sampling=self.pixel)
        return self._depth[index]

    def smooth(self, index: int) -> np.ndarray:
        """(H, W) HU without the scanner's noise; bone does not leak in."""
        if index not in self._smooth:
            inside = self.brain[index].astype(np.float32)
            sigma = 1.2 / self.pixel
            weighted = ndimage.gaussian_filter(self.hounsfield[index] * inside, sigma)
            self._smooth[index] = weighted / np.maximum(ndimage.gaussian_filter(inside, sigma), 0.05)
        return self._smooth[index]

    def center(self, index: int) -> tuple[float, float]:
        """Middle of the brain in mm along rows and columns."""
        row, column = ndimage.center_of_mass(self.brain[index])
        return float(row) * self.pixel, float(column) * self.pixel

    def noise(self, rng: np.random.Generator, length: float) -> np.ndarray:
        """(H, W) smooth Gaussian noise of unit variance; ``length`` is its correlation length in mm."""
        shape = self.hounsfield.shape[1:]
        pixels = length / self.pixel
        coarse = rng.normal(size=[int(n / pixels) + 4 for n in shape]).astype(np.float32)
        field = ndimage.zoom(coarse, [(n + 1) / (c - 1) for n, c in zip(shape, coarse.shape, strict=True)], order=1)
        field = field[: shape[0], : shape[1]]
        return field / max(float(field.std()), 1e-6)
