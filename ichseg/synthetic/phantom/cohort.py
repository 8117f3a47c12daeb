"""Phantom scans and whole phantom cohorts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ichseg.data.datalist import write_datalist
from ichseg.data.subtypes import SUBTYPES
from ichseg.defaults import PHANTOM_SIZE, PHANTOM_SLICES, PHANTOMS
from ichseg.io import staged_folder, write_volume
from ichseg.synthetic.phantom.phantom_head import PhantomHead
from ichseg.synthetic.phantom.phantom_lesions import PhantomLesion

FIELD_OF_VIEW_MM = 215.0
BOTTOM_MM, TOP_MM = -48.0, 74.0
# A voxel that is half blood and half skull looks like skull, and no one would outline it.
OUTSHONE_HU = 130.0
# What the cohort cycles through: four scans of five bleed, as mixtures that occur.
PATTERN: tuple[tuple[str, ...], ...] = (
    ("IPH",),
    ("EDH",),
    ("SDH",),
    (),
    ("IPH", "IVH"),
    ("SAH",),
    ("SDH", "SAH"),
)


@dataclass(frozen=True)
class PhantomScan:
    """One phantom.

    Attributes:
        image: (X, Y, Z) int16 HU.
        label: (X, Y, Z) uint8 subtype codes, exact.
        affine: (4, 4) voxel to RAS in mm: first axis to the left, second to the back, third up.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def phantom_scan(
    seed: int, subtypes: Sequence[str] = ("IPH",), size: int = 256, slices: int = 24, noise_hu: float = 4.0
) -> PhantomScan:
    """A head CT with hemorrhage of the given subtypes.

    Partial volume is real: every voxel averages three levels through the slice, and edges are blurred in plane. The
    truth is the voxel's majority, save where bone outshines the blood in it. Noise is Gaussian with a short
    correlation, as a soft kernel leaves it.

    Args:
        seed: of head, lesions and noise; the same seed gives the same scan.
        subtypes: of EDH, IPH, IVH, SAH, SDH; empty for a healthy head.
        size: pixels per side in plane.
        slices: number of slices over 122 mm.
        noise_hu: standard deviation of the noise.
    """
    rng = np.random.default_rng(seed)
    head = PhantomHead.draw(rng)
    lesions = [PhantomLesion.draw(rng, name) for name in subtypes]
    turn, tilt = rng.uniform(-0.06, 0.06), rng.uniform(-0.05, 0.05)
    shift = rng.uniform(-4, 4, 2)
    step = (FIELD_OF_VIEW_MM / size, FIELD_OF_VIEW_MM / size, (TOP_MM - BOTTOM_MM) / slices)
    right = -(np.arange(size) - (size - 1) / 2) * step[0] - shift[0]
    front = -(np.arange(size) - (size - 1) / 2) * step[1] - shift[1]
    up = BOTTOM_MM + (np.arange(slices) + 0.5) * step[2]
    image = np.empty((size, size, slices), np.float32)
    label = np.zeros((size, size, slices), np.uint8)
    x0, y0 = np.meshgrid(right.astype(np.float32), front.astype(np.float32), indexing="ij")
    x, y = math.cos(turn) * x0 + math.sin(turn) * y0, -math.sin(turn) * x0 + math.cos(turn) * y0
    for index, z0 in enumerate(up):
        layers = []
        shares = {lesion.code: np.zeros((size, size), np.float32) for lesion in lesions}
        for offset in (-1 / 3, 0, 1 / 3):
            points = (x, y, (z0 + offset * step[2] + math.sin(tilt) * y).astype(np.float32))
            hu = head.hounsfield(points)
            for lesion in lesions:
                filled = lesion.paint(hu, points, head)
                shares[lesion.code] += filled / 3
            layers.append(hu)
        image[..., index] = np.mean(layers, axis=0)
        for code, filled in shares.items():
            label[..., index][(filled >= 0.5) & (image[..., index] < OUTSHONE_HU)] = code
    noise = ndimage.gaussian_filter(rng.normal(size=image.shape).astype(np.float32), (0.7, 0.7, 0))
    image += noise * (noise_hu / max(float(noise.std()), 1e-6)) * (image > -900)
    affine = np.diag([-step[0], -step[1], step[2], 1.0])
    affine[:3, 3] = right[0] + shift[0], front[0] + shift[1], up[0]
    return PhantomScan(np.rint(image).clip(-1024, 3071).astype(np.int16), label, affine)


def prepare_phantom(
    output: str | Path,
    scans: int = PHANTOMS,
    seed: int = 0,
    size: int = PHANTOM_SIZE,
    slices: int = PHANTOM_SLICES,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[str, int]:
    """Write a phantom cohort as an ichseg data folder.

    Scan i is in fold ``i % 5`` and has the i-th entry of a repeating list of hemorrhage patterns.

    Args:
        output: a new or empty folder.
        scans: how many.
        seed: of the cohort.
        size, slices: of every scan.
        progress: wraps the iteration over scans.

    Returns:
        counts: volumes, slices, positive slices.
    """
    entries: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for number in progress(range(scans)):
            name = f"phantom_{number:03d}"
            scan = phantom_scan(seed * 10_000 + number, PATTERN[number % len(PATTERN)], size, slices)
            write_volume(staged / "images" / f"{name}.nii.gz", scan.image, scan.affine)
            write_volume(staged / "labels" / f"{name}.nii.gz", scan.label, scan.affine)
            rows = [
                {"hemorrhage": int(s.any()), **{n: int((s == c).any()) for c, n in SUBTYPES.items()}}
                for s in np.moveaxis(scan.label, 2, 0)
            ]
            entries.append(
                {
                    "case": name,
                    "patient": name,
                    "image": f"images/{name}.nii.gz",
                    "label": f"labels/{name}.nii.gz",
                    "label_slices": list(range(slices)),
                    "fold": number % 5,
                    "slices": rows,
                }
            )
        counts = {
            "volumes": scans,
            "slices": scans * slices,
            "positive_slices": sum(r["hemorrhage"] for e in entries for r in e["slices"]),
        }
        write_datalist(staged, "phantom", entries, license="Apache-2.0", seed=seed, counts=counts)
    return counts
