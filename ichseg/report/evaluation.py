"""Predicted masks against true masks: one table, with doing nothing and a threshold beside it."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichseg.data import load_masked
from ichseg.errors import IchsegError
from ichseg.io import read_mask, read_volume, scan_name, slice_axis, spacing_mm, write_text
from ichseg.methods import hu_rule
from ichseg.metrics import DatasetIoU, LesionLocalization, dice

COLUMNS = (
    "method",
    "foreground_iou",
    "background_iou",
    "miou",
    "dice_positive_slices",
    "CL",
    "ML",
    "FPL",
    "empty_slices_touched",
    "slices",
    "positive_slices",
)


class _Tally:
    """Everything counted for one method."""

    def __init__(self) -> None:
        self.iou, self.lesions = DatasetIoU(), LesionLocalization(8)
        self.dices: list[float] = []
        self.slices = self.touched = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        self.iou.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        self.lesions.update(prediction, truth)
        self.slices += 1
        if truth.any():
            self.dices.append(dice(torch.from_numpy(prediction), torch.from_numpy(truth)))
        else:
            self.touched += bool(prediction.any())

    def row(self, method: str) -> dict[str, Any]:
        background, foreground = self.iou.iou().tolist()
        empty = self.slices - len(self.dices)
        return {
            "method": method,
            "foreground_iou": foreground,
            "background_iou": background,
            "miou": self.iou.miou(),
            "dice_positive_slices": float(np.mean(self.dices)) if self.dices else float("nan"),
            **self.lesions.compute(),
            "empty_slices_touched": self.touched / empty if empty else float("nan"),
            "slices": self.slices,
            "positive_slices": len(self.dices),
        }


def evaluate_masks(
    predictions: str | Path,
    datalist: str | Path,
    output: str | Path | None = None,
    folds: str | None = None,
    cases: Sequence[str] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[dict[str, Any]]:
    """Compare ``<name>_ich.nii.gz`` or ``<name>_pseudo.nii.gz`` in ``predictions`` with the masks of a datalist.

    Only annotated slices count (``label_slices``); a scan without a mask counts as empty if every slice of it is
    labeled negative, and not at all otherwise. IoU is accumulated over all of them; Dice is the mean over
    slices with true hemorrhage; lesions are 8-connected parts of slices. Doing nothing and the threshold rule of
    :func:`ichseg.methods.hu_rule` are evaluated on the same slices.

    Args:
        predictions: folder of masks.
        datalist: with ``label`` for at least one scan.
        output: folder for ``evaluation.csv`` and ``evaluation.json``; None writes nothing.
        folds: keep only these folds, e.g. ``"3-4"``.
        cases: keep only these cases.
        progress: wraps the iteration over scans.

    Returns:
        one row per method, columns :data:`COLUMNS`.

    Raises:
        IchsegError: no scan has a mask, or a prediction is missing or of another shape.
    """
    scans = load_masked(datalist, folds, supervision="masks", cases=cases)
    tallies = {"prediction": _Tally(), "all background": _Tally(), "HU rule, no learning": _Tally()}
    for scan in progress(scans):
        volume = read_volume(scan["image"])
        truth = read_mask(scan["label"])[0] if "label" in scan else np.zeros(volume.array.shape, np.int16)
        prediction, _ = read_mask(prediction_file(Path(predictions), scan))
        if prediction.shape != truth.shape:
            raise IchsegError(
                f"case {scan['case']}: prediction {prediction.shape} and truth {truth.shape} differ in shape"
            )
        axis = slice_axis(volume.affine)
        in_plane = [s for i, s in enumerate(spacing_mm(volume.affine)) if i != axis]
        for index in scan.get("label_slices", range(truth.shape[axis])):
            true = (np.take(truth, index, axis) > 0).astype(np.int64)
            hounsfield = np.take(volume.array, index, axis)
            tallies["prediction"].add((np.take(prediction, index, axis) > 0).astype(np.int64), true)
            tallies["all background"].add(np.zeros_like(true), true)
            tallies["HU rule, no learning"].add(hu_rule(hounsfield, (in_plane[0], in_plane[1])).astype(np.int64), true)
    rows = [tally.row(method) for method, tally in tallies.items()]
    if output is not None:
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(output) / "evaluation.csv", table.getvalue())
        # JSON has no NaN: what cannot be divided is null.
        plain = [{k: None if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows]
        write_text(Path(output) / "evaluation.json", json.dumps(plain, indent=1) + "\n")
    return rows


def print_evaluation(rows: list[dict[str, Any]]) -> None:
    """Print the rows of :func:`evaluate_masks` as a table, one column per method."""
    width = max(len(row["method"]) for row in rows) + 2
    for name in COLUMNS:
        cells = [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for row in rows]
        sys.stdout.write(f"{name.replace('_', ' '):24s}" + "".join(f"{cell:>{width}s}" for cell in cells) + "\n")


def prediction_file(folder: Path, scan: dict[str, Any]) -> Path:
    """The mask of a scan in a folder of predictions.

    Raises:
        IchsegError: there is none.
    """
    name = scan_name(scan["image"])
    for postfix in ("_ich", "_pseudo"):
        file = folder / f"{name}{postfix}.nii.gz"
        if file.is_file():
            return file
    raise IchsegError(f"{folder / name}_ich.nii.gz: no prediction for case {scan['case']}")
