"""Overlap of masks, accumulated over a whole data set."""

from __future__ import annotations

import torch
from torch import Tensor


class DatasetIoU:
    """Intersection over union per class, accumulated over everything it was shown (decision D17).

    Not the mean of per-image values: images without foreground count through their false positives, and none is
    dropped. Beware of the two-class mean: predicting nothing scores ``(1 - p) / 2`` for a lesion share p.

    Args:
        num_classes: class codes are 0 to num_classes - 1; 0 is background.
    """

    def __init__(self, num_classes: int = 2) -> None:
        self.num_classes = num_classes
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add class codes of any, but one, shape.

        Raises:
            ValueError: shapes differ, or a code is out of range.
        """
        prediction, target = torch.as_tensor(prediction).cpu(), torch.as_tensor(target).cpu()
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
        p, t = prediction.long().flatten(), target.long().flatten()
        if p.numel() == 0:
            return
        if min(p.min(), t.min()) < 0 or max(p.max(), t.max()) >= self.num_classes:
            raise ValueError(f"class codes must lie between 0 and {self.num_classes - 1}")
        counts = torch.bincount(t * self.num_classes + p, minlength=self.num_classes**2)
        self.confusion += counts.reshape(self.num_classes, self.num_classes)

    def iou(self) -> Tensor:
        """(num_classes,) float64; NaN for a class that is in neither prediction nor target."""
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - self.confusion.diagonal()
        return torch.where(union > 0, hits / union.clamp_min(1), torch.nan)

    def miou(self) -> float:
        """Mean over the classes; NaN if any class is absent throughout."""
        return float(self.iou().mean())


def dice(prediction: Tensor, target: Tensor) -> float:
    """Dice of two binary masks of one shape; NaN if both are empty."""
    p, t = torch.as_tensor(prediction) > 0, torch.as_tensor(target) > 0
    total = int(p.sum() + t.sum())
    return 2 * int((p & t).sum()) / total if total else float("nan")
