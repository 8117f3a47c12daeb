"""How well scores tell positives from negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve by ranks, ties counting half; NaN unless both kinds are there.

    Args:
        scores: (n,), higher means more likely positive.
        labels: (n,), 0 or 1.
    """
    scores, positive = np.asarray(scores, dtype=float), np.asarray(labels).astype(bool)
    p, n = int(positive.sum()), int((~positive).sum())
    if p == 0 or n == 0:
        return float("nan")
    return float((rankdata(scores)[positive].sum() - p * (p + 1) / 2) / (p * n))
