"""Calibration: of the voxels with a predicted probability of 0.7, are 7 in 10 hemorrhage?"""

from __future__ import annotations

import numpy as np


class Calibration:
    """Counts voxels by their predicted probability, for a reliability diagram.

    Args:
        bins: of equal width from 0 to 1.
    """

    def __init__(self, bins: int = 10) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, not {bins}")
        self.voxels, self.positive = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
        self.total = np.zeros(bins)

    def update(self, probability: np.ndarray, truth: np.ndarray) -> None:
        """Add a scan: probabilities in [0, 1] and, in the same shape, what is above 0 where there is hemorrhage.

        Raises:
            ValueError: shapes differ, or a value is no probability.
        """
        p, t = np.asarray(probability, dtype=np.float64), np.asarray(truth) > 0
        if p.shape != t.shape:
            raise ValueError(f"probabilities have shape {p.shape}, but the truth has shape {t.shape}")
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"values from {p.min():g} to {p.max():g} are not probabilities")
        count = len(self.voxels)
        place = np.minimum((p * count).astype(int), count - 1).ravel()
        self.voxels += np.bincount(place, minlength=count)
        self.positive += np.bincount(place[t.ravel()], minlength=count)
        self.total += np.bincount(place, weights=p.ravel(), minlength=count)

    def rows(self) -> list[dict[str, float | int]]:
        """One row per bin: ``from``, ``to``, ``voxels``, mean ``probability``, and ``observed``, the share that bleeds.

        Where there are no voxels, both are NaN.
        """
        edges = np.linspace(0, 1, len(self.voxels) + 1)
        with np.errstate(invalid="ignore"):
            mean, observed = self.total / self.voxels, self.positive / self.voxels
        return [
            {"from": float(edges[n]), "to": float(edges[n + 1]), "voxels": int(self.voxels[n]),
             "probability": float(mean[n]), "observed": float(observed[n])}
            for n in range(len(self.voxels))
        ]  # fmt: skip

    def error(self, skip: int = 1) -> float:
        """Expected calibration error (Guo et al. 2017): mean distance of probability and share, weighted by voxels.

        Args:
            skip: leave out so many of the lowest bins. Nearly all voxels of a head are in the first, where every
                method is right: with it the error is small whatever the rest does.
        """
        kept = [row for row in self.rows()[skip:] if row["voxels"]]
        if not kept:
            return float("nan")
        weights = [row["voxels"] for row in kept]
        return float(np.average([abs(row["probability"] - row["observed"]) for row in kept], weights=weights))
