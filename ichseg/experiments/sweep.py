"""Every threshold at once: how many true and false pixels lie above each, per slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Strict thresholds of 0.00 to 1.00 in steps of 0.01, in the type the scores have.
THRESHOLDS = np.round(np.arange(101) / 100, 2).astype(np.float32)
# Among these the best is looked for, as in the paper.
LOWEST, HIGHEST = 10, 70
MASK = 50  # a mask is a score of 0 or 1, so any threshold between will do


def threshold_at(index: int | None) -> float:
    """A threshold as one writes it: 0.27, not the nearest number of single precision; NaN for none."""
    return float("nan") if index is None else round(float(THRESHOLDS[index]), 2)


@dataclass
class Counts:
    """Pixels above every threshold, slice by slice.

    Attributes:
        true: (slices, 101) pixels of hemorrhage above the threshold.
        false: (slices, 101) pixels of background above it.
        positive: (slices,) pixels of hemorrhage.
        negative: (slices,) pixels of background.
        fold: (slices,) fold of the scan.
        case: (slices,) name of the scan.
        probability: (slices,) of hemorrhage by the classifiers; NaN for masks.
        gated: (slices,) True where a mask may be.
    """

    true: np.ndarray
    false: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    fold: np.ndarray
    case: np.ndarray
    probability: np.ndarray
    gated: np.ndarray

    @classmethod
    def of_scan(
        cls,
        score: np.ndarray,
        truth: np.ndarray,
        case: str,
        fold: int,
        probability: np.ndarray | None = None,
        gated: np.ndarray | None = None,
    ) -> Counts:
        """Count one scan.

        Args:
            score: (slices, H, W) float32; hemorrhage where it is above a threshold.
            truth: (slices, H, W) bool.
            case: name of the scan.
            fold: of the scan.
            probability, gated: (slices,) if classifiers had a say.
        """
        n = len(score)
        above = np.zeros((2, n, len(THRESHOLDS)), np.int64)
        for index in range(n):
            lit = score[index] > 0
            if lit.any():
                # bin k: above the thresholds 0 to k - 1
                bins = np.searchsorted(THRESHOLDS, score[index][lit].astype(np.float32), side="left")
                for kind, chosen in enumerate((truth[index][lit], ~truth[index][lit])):
                    counted = np.bincount(bins[chosen], minlength=len(THRESHOLDS) + 1)
                    above[kind, index] = counted[::-1].cumsum()[::-1][1:]
        positive = truth.reshape(n, -1).sum(axis=1).astype(np.int64)
        size = int(np.prod(truth.shape[1:]))
        return cls(
            above[0],
            above[1],
            positive,
            size - positive,
            np.full(n, fold),
            np.full(n, case),
            np.full(n, np.nan) if probability is None else probability,
            np.ones(n, bool) if gated is None else gated,
        )

    @classmethod
    def joined(cls, parts: Sequence[Counts]) -> Counts:
        """Several scans as one."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))

    def of_folds(self, folds: Sequence[int]) -> Counts:
        """Only the slices of some folds."""
        keep = np.isin(self.fold, list(folds))
        return Counts(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))

    @property
    def has_hemorrhage(self) -> bool:
        """True if there is a true pixel to find."""
        return bool(self.positive.sum())

    def iou(self, threshold: int) -> tuple[float, float]:
        """(background, foreground) IoU over all slices at ``THRESHOLDS[threshold]``; NaN without any hemorrhage."""
        hit, false = int(self.true[:, threshold].sum()), int(self.false[:, threshold].sum())
        positive, negative = int(self.positive.sum()), int(self.negative.sum())
        if not positive:
            return float("nan"), float("nan")
        return (negative - false) / (positive + negative - hit), hit / (positive + false)

    def miou(self, threshold: int) -> float:
        """Mean of the two IoU, accumulated over the slices (decision D17)."""
        return float(np.mean(self.iou(threshold)))

    def miou_per_slice(self, threshold: int) -> np.ndarray:
        """Two-class mIoU of each slice with hemorrhage."""
        bleeding = self.positive > 0
        hit, false = self.true[bleeding, threshold], self.false[bleeding, threshold]
        positive, negative = self.positive[bleeding], self.negative[bleeding]
        return ((negative - false) / (positive + negative - hit) + hit / (positive + false)) / 2

    def best_threshold(self) -> int | None:
        """Index of the best threshold by mIoU between .10 and .70, the lowest of equals; None without true pixels."""
        if not self.has_hemorrhage:
            return None
        return LOWEST + int(np.argmax([self.miou(k) for k in range(LOWEST, HIGHEST + 1)]))
