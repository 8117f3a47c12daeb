"""Choose the threshold of score maps on validation scans with masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.errors import IchsegError
from ichseg.evaluation.truth import true_scans
from ichseg.io import header_affine, read_mask, read_volume, scan_name, slice_axis
from ichseg.io.lay import laid_on
from ichseg.io.tables import write_csv

logger = logging.getLogger(__name__)
GRID = tuple(np.arange(0.01, 1, 0.02).round(2).tolist())  # the authors'
COLUMNS = ("threshold", "dice_positive_slices")


def best_threshold(
    scores: str | Path,
    datalist: str | Path,
    folds: str | Sequence[int] | None = None,
    output: str | Path | None = None,
    grid: Sequence[float] = GRID,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> float:
    """The threshold with the best mean Dice of slices with true hemorrhage; the lowest of those as good.

    The whole grid is tried: a search that stops at the first step that is no better may stop early.

    Args:
        scores: folder of ``NAME_score.nii.gz``, maps in [0, 1]; pixels above the threshold count.
        datalist: with true masks of some scans.
        folds: whose scans choose.
        output: CSV of the grid; None writes none.
        grid: thresholds.
        progress: wraps the iteration over scans.

    Raises:
        IchsegError: no scan has a mask with hemorrhage, or maps are missing.
    """
    scans = [scan for scan in true_scans(datalist, folds) if scan.label is not None and scan.image is not None]
    steps = np.asarray(sorted(grid), dtype=np.float32)
    dice: list[np.ndarray] = []
    for scan in progress(scans):
        file = Path(scores) / f"{scan_name(scan.image or '')}_score.nii.gz"
        if not file.is_file():
            raise IchsegError(f"{file}: file not found; make maps with save_scores")
        score, (truth, truth_affine) = read_volume(file), read_mask(scan.label or "")
        affine = header_affine(scan.image or "")  # numbers of annotated slices are those of the scan
        maps = laid_on(score.array, score.affine, affine, file, scan.image or "")
        truth = laid_on(truth, truth_affine, affine, scan.label or "", scan.image or "")
        axis = slice_axis(affine)
        maps, truth = np.moveaxis(maps, axis, 0), np.moveaxis(truth > 0, axis, 0)
        for index in range(len(truth)) if scan.slices is None else scan.slices:
            if truth[index].any():
                dice.append(_dice(maps[index], truth[index], steps))
    if not dice:
        raise IchsegError(f"{datalist}: no true mask with hemorrhage in folds {folds}; nothing can choose a threshold")
    mean = np.mean(dice, axis=0)
    if output is not None:
        rows = [{"threshold": round(float(t), 4), "dice_positive_slices": round(float(d), 4)}
                for t, d in zip(steps, mean, strict=True)]  # fmt: skip
        write_csv(output, COLUMNS, rows)
    best = float(steps[int(mean.argmax())])
    logger.info("threshold %.2f: mean Dice %.3f of %d positive slices", best, mean.max(), len(dice))
    return round(best, 4)


def _dice(score: np.ndarray, truth: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Dice at every threshold, of one slice."""
    # How many thresholds a pixel reaches: counted once instead of cut once per threshold.
    reached = np.searchsorted(steps, score.ravel().astype(np.float32), side="left")
    every = np.bincount(reached, minlength=len(steps) + 1)[::-1].cumsum()[::-1][1:]
    hits = np.bincount(reached[truth.ravel()], minlength=len(steps) + 1)[::-1].cumsum()[::-1][1:]
    return 2 * hits / (every + truth.sum())
