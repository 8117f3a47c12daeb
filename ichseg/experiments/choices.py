"""Thresholds: the one the evaluated masks would choose, and the one the validation folds choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ichseg.data.folds import parse_folds
from ichseg.defaults import PAPER_THRESHOLD
from ichseg.experiments.ablation import ROWS, Row
from ichseg.experiments.study import Study
from ichseg.experiments.sweep import MASK, THRESHOLDS, Counts, threshold_at

CHOICES = ("oracle", "validation")
NAN = float("nan")


def thresholds(study: Study, counts: Counts) -> dict[str, int | None]:
    """Choice -> index of the threshold; None where there is no true hemorrhage to choose by."""
    return {
        "oracle": counts.best_threshold(),
        "validation": counts.of_folds(parse_folds(study.val_folds)).best_threshold(),
    }


def figures(counts: Counts, index: int | None) -> dict[str, float]:
    """IoU at a threshold; NaN without one."""
    background, foreground = (NAN, NAN) if index is None else counts.iou(index)
    return {"miou": (background + foreground) / 2, "foreground_iou": foreground, "background_iou": background}


def row_values(row: Row, pair: Sequence[str], layers: str = "2") -> dict[str, Any]:
    """Values for :meth:`Study.sweep`."""
    return {**row.overrides(pair, layers), "models": row.models}


def fallback_note(study: Study, which: str) -> str:
    """One line for the page if the validation folds cannot choose; empty if they can."""
    if study.rule_counts(which).of_folds(parse_folds(study.val_folds)).has_hemorrhage:
        return ""
    return (
        f"\nThe validation folds ({study.val_folds}) contain no hemorrhage in the true masks, so there is no "
        f"validation threshold; pseudo-masks in that column use the paper's threshold of {PAPER_THRESHOLD}.\n"
    )


def mask_thresholds(study: Study, which: str, pair: Sequence[str], size: int) -> dict[str, float]:
    """Choice -> threshold at which pseudo-masks are cut: that of the row with aggregation and without CRF.

    Without true hemorrhage in the validation folds it is the paper's .22 (its best on BCIHM).
    """
    counts = study.sweep(which, pair, size, {"r7": row_values(ROWS["r7"], pair)})["r7"]
    found = thresholds(study, counts)
    return {c: PAPER_THRESHOLD if found[c] is None else threshold_at(found[c]) for c in CHOICES}


def pseudo_counts(study: Study, which: str, pair: Sequence[str], size: int, choice: str) -> Counts:
    """Counts of the pseudo-masks with CRF (row r8)."""
    threshold = mask_thresholds(study, which, pair, size)[choice]
    return study.mask_counts(which, study.pseudo_masks(which, ROWS["r8"], pair, size, threshold))


def unet_name(study: Study, pair: Sequence[str], size: int, choice: str) -> tuple[str, float]:
    """Name of the U-Net of a choice, and the threshold of the pseudo-masks it learned from.

    It learns from the real scans; where those have no masks to choose by, the benchmark chooses.
    """
    threshold = mask_thresholds(study, study.sets[0], pair, size)[choice]
    return f"{'+'.join(pair)}_{size}_{threshold:.2f}", threshold


def unet_masks(study: Study, which: str, pair: Sequence[str], size: int, choice: str):
    """Folder of the masks of the U-Net trained on pseudo-masks (row r9), for validation and test scans."""
    from ichseg.experiments.study import REAL

    name, threshold = unet_name(study, pair, size, choice)
    weights = study.unet(name, size, study.pseudo_masks(REAL, ROWS["r8"], pair, size, threshold))
    return study.segment(name, weights, size, which)


def unet_counts(study: Study, which: str, pair: Sequence[str], size: int, choice: str) -> Counts:
    """Counts of the U-Net trained on pseudo-masks (row r9), on validation and test scans."""
    return study.mask_counts(which, unet_masks(study, which, pair, size, choice), study.evaluated_folds)


def baselines(study: Study, which: str, folds: Sequence[int] | None = None) -> list[tuple[str, Counts, int]]:
    """(name, counts, threshold index) of doing nothing and of the HU rule."""
    rule = study.rule_counts(which)
    rule = rule if folds is None else rule.of_folds(folds)
    return [("all background", rule, len(THRESHOLDS) - 1), ("HU rule, no learning", rule, MASK)]
