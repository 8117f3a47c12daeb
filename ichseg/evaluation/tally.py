"""Everything counted while one method's masks are compared with the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ichseg.evaluation.surface import surface_agreement
from ichseg.metrics import DatasetIoU, LesionLocalization, dice

COLUMNS = (
    "method",
    # accumulated over all annotated pixels
    "foreground_iou",
    "background_iou",
    "miou",
    # means of slices or scans that truly bleed
    "foreground_iou_per_slice",
    "miou_per_slice",
    "foreground_iou_per_scan",
    "miou_per_scan",
    "dice_positive_slices",
    "dice_per_scan",
    # lesions
    "CL",
    "ML",
    "FPL",
    # surfaces and volumes of scans
    "hd95_mm",
    "surface_dice",
    "volume_bias_ml",
    "volume_error_ml",
    # what the means above are over, and what they leave out
    "slices",
    "positive_slices",
    "empty_slices",
    "empty_slices_touched",
    "scans",
    "positive_scans",
    "positive_scans_missed",
    "positive_scans_without_overlap",
    "empty_scans",
    "empty_scans_touched",
    "partly_annotated_scans",
)
SCAN_COLUMNS = (
    "method",
    "case",
    "foreground_iou",
    "dice",
    "hd95_mm",
    "surface_dice",
    "true_ml",
    "predicted_ml",
    "slices",
    "positive_slices",
)
SLICE_COLUMNS = (
    "case",
    "patient",
    "slice",
    "pixels",
    "true_pixels",
    "predicted_pixels",
    "overlap_pixels",
    "dice",
    "true_lesions",
    "found_lesions",
    "predicted_lesions",
    "false_lesions",
)
NAN = float("nan")


class Tally:
    """Compare one method's masks with the truth, scan by scan.

    Means are over the slices or scans with true hemorrhage. Of those without, the share in which the method marks
    anything is counted separately; they do not enter the means as 0, 1 or NaN.

    Args:
        method: its name in the table.
        connectivity: what a lesion is: 4 or 8 in slices, 6, 18 or 26 in volumes (decision D18: 8).
        tolerance_mm: of the surface Dice.
    """

    def __init__(self, method: str, connectivity: int = 8, tolerance_mm: float = 2.0) -> None:
        self.method, self.tolerance_mm = method, tolerance_mm
        self.iou, self.lesions = DatasetIoU(), LesionLocalization(connectivity)
        self.slices: list[dict[str, float]] = []
        self.scans: list[dict[str, Any]] = []
        self.partly_annotated = 0

    @classmethod
    def joined(cls, parts: Sequence[Tally]) -> Tally:
        """All that was counted by some tallies of one method."""
        whole = cls(parts[0].method, parts[0].lesions.connectivity, parts[0].tolerance_mm)
        for part in parts:
            whole.iou.confusion += part.iou.confusion
            whole.lesions.add(part.lesions)
            whole.slices += part.slices
            whole.scans += part.scans
            whole.partly_annotated += part.partly_annotated
        return whole

    def add(
        self,
        case: str,
        prediction: np.ndarray,
        truth: np.ndarray,
        spacing: tuple[float, ...],
        whole: bool = True,
        voxel_ml: float | None = None,
    ) -> None:
        """Add a scan.

        Args:
            case: its name.
            prediction, truth: (slices, H, W) masks of the annotated slices, in order.
            spacing: mm between slices, rows and columns.
            voxel_ml: volume of a voxel; None: the product of the spacing, which is too large under gantry tilt. NaN:
                unknown, as are distances then.
            whole: False where some slices of the scan are not annotated: they count as slices, not as a scan.
        """
        p, t = np.asarray(prediction) > 0, np.asarray(truth) > 0
        self.iou.update(torch.from_numpy(p), torch.from_numpy(t))
        if self.lesions.ndim == 3 and whole:
            self.lesions.update(p, t)
        for one, true in zip(p, t, strict=True):
            background, foreground = _iou(one, true)
            counted = LesionLocalization(self.lesions.connectivity)
            if self.lesions.ndim == 2:
                counted.update(one, true)
                self.lesions.add(counted)
            self.slices.append(
                {
                    "pixels": true.size,
                    "true_pixels": int(true.sum()),
                    "predicted_pixels": int(one.sum()),
                    "overlap_pixels": int((one & true).sum()),
                    **(counted.counts() if self.lesions.ndim == 2 else {}),
                    "positive": float(true.any()),
                    "touched": float(one.any()),
                    "foreground_iou": foreground,
                    "miou": _mean_of_two(background, foreground),
                    "dice": dice(torch.from_numpy(one), torch.from_numpy(true)),
                }
            )
        if not whole:
            self.partly_annotated += 1
            return
        background, foreground = _iou(p, t)
        voxel_ml = float(np.prod(spacing)) / 1000 if voxel_ml is None else voxel_ml
        surface = {"hd95_mm": NAN, "surface_dice": NAN}
        if t.any() and not math.isnan(voxel_ml):
            surface = surface_agreement(p, t, spacing, self.tolerance_mm)
        self.scans.append(
            {
                "method": self.method,
                "case": case,
                "positive": bool(t.any()),
                "touched": bool(p.any()),
                "foreground_iou": foreground,
                "miou": _mean_of_two(background, foreground),
                "dice": dice(torch.from_numpy(p), torch.from_numpy(t)),
                **surface,
                "true_ml": float(t.sum()) * voxel_ml,
                "predicted_ml": float(p.sum()) * voxel_ml,
                "slices": len(t),
                "positive_slices": int(t.any(axis=(1, 2)).sum()),
            }
        )

    def row(self) -> dict[str, Any]:
        """One row of the table, columns :data:`COLUMNS`; NaN where there is nothing to average."""
        background, foreground = self.iou.iou().tolist()
        bleeding = [s for s in self.slices if s["positive"]]
        empty = [s for s in self.slices if not s["positive"]]
        bleeding_scans = [s for s in self.scans if s["positive"]]
        empty_scans = [s for s in self.scans if not s["positive"]]
        errors = [{"bias": s["predicted_ml"] - s["true_ml"]} for s in self.scans if not math.isnan(s["true_ml"])]
        return {
            "method": self.method,
            "foreground_iou": foreground,
            "background_iou": background,
            "miou": self.iou.miou(),
            "foreground_iou_per_slice": _mean(bleeding, "foreground_iou"),
            "miou_per_slice": _mean(bleeding, "miou"),
            "foreground_iou_per_scan": _mean(bleeding_scans, "foreground_iou"),
            "miou_per_scan": _mean(bleeding_scans, "miou"),
            "dice_positive_slices": _mean(bleeding, "dice"),
            "dice_per_scan": _mean(bleeding_scans, "dice"),
            **self.lesions.compute(),
            "hd95_mm": _mean([s for s in bleeding_scans if not math.isnan(s["hd95_mm"])], "hd95_mm"),
            "surface_dice": _mean([s for s in bleeding_scans if not math.isnan(s["surface_dice"])], "surface_dice"),
            "volume_bias_ml": _mean(errors, "bias"),
            "volume_error_ml": float(np.mean([abs(e["bias"]) for e in errors])) if errors else NAN,
            "slices": len(self.slices),
            "positive_slices": len(bleeding),
            "empty_slices": len(empty),
            "empty_slices_touched": _mean(empty, "touched"),
            "scans": len(self.scans),
            "positive_scans": len(bleeding_scans),
            "positive_scans_missed": sum(not s["touched"] for s in bleeding_scans),
            "positive_scans_without_overlap": sum(not s["foreground_iou"] for s in bleeding_scans),
            "empty_scans": len(empty_scans),
            "empty_scans_touched": _mean(empty_scans, "touched"),
            "partly_annotated_scans": self.partly_annotated,
        }


def _iou(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Background and foreground IoU of one image; NaN for a class in neither mask."""
    metric = DatasetIoU()
    metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    background, foreground = metric.iou().tolist()
    return background, foreground


def _mean_of_two(background: float, foreground: float) -> float:
    """Mean over the classes that are there: a slice may be all blood."""
    return foreground if math.isnan(background) else (background + foreground) / 2


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows])) if rows else NAN
