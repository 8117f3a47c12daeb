"""How a head looks in numbers, and how unlike those a model was trained on it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichseg.anatomy.cupping import brain_depth

# What is measured, and how it is told.
NAMES: dict[str, Callable[[float], str]] = {
    "brain density": "{:.0f} HU".format,
    "noise": "{:.1f} HU".format,
    "coarseness of the noise": "{:.2f}".format,  # correlation between neighboring pixels
    "bright tissue": "{:.0f} HU above the median".format,
    "dark tissue": "{:.0f} HU below the median".format,
    "brain near the skull": lambda excess: (
        f"{abs(excess):.0f} HU {'darker' if excess < 0 else 'brighter'} than deep brain"
    ),
    # Measured as its square root: between young and old brains the share itself differs tenfold.
    "share of fluid in the brain": lambda root: f"{root * root:.0%}",
}
DEEP_MM, NEAR_MM = 10.0, (3.0, 6.0)
FLUID_HU, SMOOTH_MM = 15.0, 1.7
FEWEST_DEEP, MOST_SLICES = 500, 12
SHRINKAGE = 0.1  # of the covariance toward independence: training sets are small
# Fewer scans say little of how scans differ, and any other scan would stand out.
FEWEST_SCANS = 20
LEAST_DEVIATION = (0.5, 0.05, 0.01, 0.2, 0.2, 0.5, 0.02)
UNLIKE = 3.0  # the scans a reference was made of are at about 1


def appearance(hounsfield: np.ndarray, pixel_mm: float) -> np.ndarray | None:
    """The numbers of :data:`NAMES` for one head, or None where there is too little brain.

    Medians and quantiles over the brain: a hemorrhage of ordinary size changes them little.

    Args:
        hounsfield: (slices, H, W) HU; at most ``MOST_SLICES`` of them, evenly spaced, are looked at.
        pixel_mm: mm per pixel in plane.
    """
    some = np.unique(np.linspace(0, len(hounsfield) - 1, MOST_SLICES).round().astype(int))
    image = np.asarray(hounsfield[some], dtype=np.float32)
    depth = np.stack([brain_depth(one, pixel_mm) for one in image])
    deep, near = depth > DEEP_MM, (depth > NEAR_MM[0]) & (depth < NEAR_MM[1])
    if int(deep.sum()) < FEWEST_DEEP or not near.any():
        return None
    rest = image - ndimage.uniform_filter(image, (1, 3, 3))
    noise = float(1.4826 * np.median(np.abs(rest[deep])))
    limited = rest.clip(-6 * noise - 1, 6 * noise + 1)
    pairs = (limited[:, 1:] * limited[:, :-1])[deep[:, 1:] & deep[:, :-1]]
    sigma = SMOOTH_MM / pixel_mm
    smooth = ndimage.gaussian_filter(image, (0, sigma, sigma))
    low, middle, high = np.quantile(smooth[deep], (0.1, 0.5, 0.9))
    return np.array([
        middle,
        noise,
        pairs.mean() / max(float(limited[deep].var()), 1e-6),
        high - middle,
        middle - low,
        np.median(image[near]) - middle,
        np.sqrt((smooth[depth > 0] < FLUID_HU).mean()),
    ])  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """How the scans of a training set look.

    Attributes:
        mean, deviation: of every number of :data:`NAMES`.
        precision: inverse of their correlation.
    """

    mean: Sequence[float]
    deviation: Sequence[float]
    precision: Sequence[Sequence[float]]

    @classmethod
    def of(cls, measured: Sequence[np.ndarray]) -> Reference:
        """Of the appearances of some scans, at least ``FEWEST_SCANS``.

        Raises:
            ValueError: fewer.
        """
        if len(measured) < FEWEST_SCANS:
            raise ValueError(f"a reference needs at least {FEWEST_SCANS} scans, not {len(measured)}")
        values = np.stack(measured)
        mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), LEAST_DEVIATION)
        normal = (values - mean) / deviation
        correlation = normal.T @ normal / len(values)
        precision = np.linalg.inv((1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(mean)))
        return cls(*(np.round(array, 6).tolist() for array in (mean, deviation, precision)))

    def distance(self, measured: np.ndarray) -> float:
        """Mahalanobis 1936, per dimension: about 1 for the scans it was made of."""
        normal = (measured - np.array(self.mean)) / np.array(self.deviation)
        return float(np.sqrt(max(normal @ np.array(self.precision) @ normal, 0.0) / len(normal)))

    def told(self, measured: np.ndarray) -> str:
        """What is most unlike, for people."""
        normal = (measured - np.array(self.mean)) / np.array(self.deviation)
        most = int(np.abs(normal).argmax())
        name, told = list(NAMES.items())[most]
        return f"{name} {told(float(measured[most]))} (training mean {told(float(self.mean[most]))})"
