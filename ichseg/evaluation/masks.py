"""Predicted masks against true masks: one table, with doing nothing and a threshold beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.defaults import CONNECTIVITY, TOLERANCE_MM
from ichseg.evaluation.hu_rule import hu_rule
from ichseg.evaluation.intervals import LEVEL, bootstrap_intervals, by_patient
from ichseg.evaluation.tally import COLUMNS, SCAN_COLUMNS, SLICE_COLUMNS, Tally
from ichseg.evaluation.truth import TrueScan, compare, prediction_files, true_scans
from ichseg.evaluation.volume_agreement import write_agreement, write_calibration
from ichseg.io.tables import write_csv, write_json
from ichseg.metrics import Calibration

PREDICTION, NOTHING, RULE = "prediction", "all background", "HU rule, no learning"
INTERVALS = "intervals"


def evaluate_masks(
    predictions: str | Path,
    truth: str | Path,
    output: str | Path | None = None,
    folds: str | Sequence[int] | None = None,
    cases: Sequence[str] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    images: str | Path | None = None,
    connectivity: int = CONNECTIVITY,
    tolerance_mm: float = TOLERANCE_MM,
    with_intervals: bool = True,
) -> list[dict[str, Any]]:
    """Compare ``<name>_ich.nii.gz``, ``<name>_pseudo.nii.gz`` or ``<name>.nii.gz`` with true masks.

    Only annotated slices count; a scan without a mask counts as empty if every slice of it is labeled
    negative, and not at all otherwise. Doing nothing, and where the scans are at hand the threshold rule of
    :func:`ichseg.evaluation.hu_rule`, are evaluated on the same slices.

    Args:
        predictions: folder of masks.
        truth: a datalist or a folder of masks; with ``folds``, ``cases``, ``images`` as in :func:`true_scans`.
        output: folder for ``evaluation.csv``, ``evaluation.json``, ``evaluation_scans.csv``,
            ``evaluation_slices.csv``, ``agreement.json`` and
            ``.png``, and ``calibration.csv`` and ``.png`` if every scan has probabilities; None writes nothing.
        progress: wraps the iteration over scans.
        connectivity: what a lesion is: 4 or 8 in slices, 6, 18 or 26 in volumes (decision D18).
        tolerance_mm: of the surface Dice.
        with_intervals: give bootstrap intervals too, which takes some seconds.

    Returns:
        one row per method, columns :data:`COLUMNS`. The first, of the masks, has under ``intervals`` what
        :func:`ichseg.evaluation.bootstrap_intervals` gives, if there are several patients.

    Raises:
        IchsegError: no scan has a mask, or a prediction is missing or of another shape.
    """
    scans = true_scans(truth, folds, cases, images)
    files = prediction_files(predictions, [(scan.stem, scan.case) for scan in scans])  # all there, before work begins
    methods = [PREDICTION, NOTHING, *([RULE] if all(scan.image is not None for scan in scans) else [])]
    tallies: dict[str, list[Tally]] = {method: [] for method in methods}  # one a scan
    calibration, with_probability = Calibration(), 0
    for scan, file in progress(list(zip(scans, files, strict=True))):
        pair = compare(scan, file)
        if pair.probability is not None:
            calibration.update(pair.probability, pair.truth)
            with_probability += 1
        masks = {PREDICTION: pair.prediction, NOTHING: np.zeros_like(pair.truth)}
        if pair.hounsfield is not None and RULE in tallies:
            masks[RULE] = np.stack([hu_rule(hounsfield, pair.spacing[1:]) for hounsfield in pair.hounsfield])
        for method, mask in masks.items():
            tallies[method].append(Tally(method, connectivity, tolerance_mm))
            tallies[method][-1].add(scan.case, mask, pair.truth, pair.spacing, pair.whole, pair.voxel_ml)
    joined = {method: Tally.joined(parts) for method, parts in tallies.items()}
    rows = [tally.row() for tally in joined.values()]
    groups = by_patient(tallies[PREDICTION], [scan.patient for scan in scans])
    if with_intervals and (found := bootstrap_intervals(groups, _figures)):
        rows[0][INTERVALS] = found
    if output is not None:
        write_csv(Path(output) / "evaluation.csv", COLUMNS, rows)
        per_scan = [scan for tally in joined.values() for scan in tally.scans]
        write_csv(Path(output) / "evaluation_slices.csv", SLICE_COLUMNS, _per_slice(scans, tallies[PREDICTION]))
        write_csv(Path(output) / "evaluation_scans.csv", SCAN_COLUMNS, per_scan)
        about = {
            "lesion_connectivity": connectivity,
            "surface_tolerance_mm": tolerance_mm,
            "interval_level": LEVEL,
            "patients": len(groups),
        }
        write_json(Path(output) / "evaluation.json", {**about, "methods": rows})
        write_agreement(output, joined[PREDICTION].scans)
        if with_probability == len(scans):  # of some, it would be a figure of nobody knows what
            write_calibration(output, calibration)
    return rows


def _figures(patients: Sequence[Sequence[Tally]]) -> dict[str, Any]:
    return Tally.joined([part for parts in patients for part in parts]).row()


def _per_slice(scans: Sequence[TrueScan], parts: Sequence[Tally]) -> list[dict[str, Any]]:
    """One row per annotated slice: all that figures and intervals are made of."""
    rows = []
    for scan, part in zip(scans, parts, strict=True):
        numbers = range(len(part.slices)) if scan.slices is None else scan.slices
        about = {"case": scan.case, "patient": scan.patient}
        rows += [{**one, **about, "slice": n + 1} for n, one in zip(numbers, part.slices, strict=True)]
    return rows


def print_evaluation(rows: list[dict[str, Any]]) -> None:
    """Print the rows of :func:`evaluate_masks` as a table, one column per method."""
    width = max(len(row["method"]) for row in rows) + 2
    for name in COLUMNS:
        cells = [f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for row in rows]
        ends = rows[0].get(INTERVALS, {}).get(name)
        told = f"   {ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
        sys.stdout.write(f"{name.replace('_', ' '):26s}" + "".join(f"{cell:>{width}s}" for cell in cells) + told + "\n")
    if rows[0].get(INTERVALS):
        sys.stdout.write(f"(on the right: {LEVEL:.0%} bootstrap interval of the first column, over patients)\n")
    if all(row["method"] != RULE for row in rows):
        sys.stdout.write(f"('{RULE}' needs the scans; use --images)\n")
