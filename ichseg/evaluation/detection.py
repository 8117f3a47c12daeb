"""Masks judged by slice labels alone, where no true masks exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data import SUBTYPES, load_datalist
from ichseg.data.datalist import read_slice_table
from ichseg.errors import IchsegError
from ichseg.evaluation.truth import laid_on, prediction_files, probability_beside
from ichseg.io import header_affine, header_doubts, read_mask, scan_name, slice_axis
from ichseg.io.geometry import NO_ORIENTATION
from ichseg.io.tables import write_json
from ichseg.metrics import hemorrhage_volume, roc_auc
from ichseg.report.gallery import Judged, slice_gallery


def evaluate_slices(
    predictions: str | Path,
    datalist: str | Path,
    output: str | Path | None = None,
    folds: str | None = None,
    cases: Sequence[str] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, float | int]:
    """Compare which slices the masks touch with the slice labels.

    Args:
        predictions: folder of masks.
        datalist: with ``slice_labels``.
        output: folder for ``detection.json`` and ``gallery.png``; None writes nothing.
        folds: keep only these folds, e.g. ``"3-4"``.
        cases: keep only these cases.
        progress: wraps the iteration over scans.

    Returns:
        slices, positive_slices, positive_slices_touched and negative_slices_touched (shares), slice_auc and
        patient_auc of the segmented area and volume as scores; where every mask has its probabilities beside it,
        slice_auc_probability and patient_auc_probability of the largest one in a slice and in a patient; and, where
        ``slice_labels.csv`` beside the datalist tells subtypes, the share of each subtype's slices that is touched.

    Raises:
        IchsegError: a prediction or the slice labels are missing.
    """
    subtypes = _read_subtypes(Path(datalist).parent)
    by_subtype: dict[str, list[bool]] = {name: [] for name in SUBTYPES.values()}
    areas, labels, peaks = [], [], []
    highest: dict[str, float] = {}
    judged: list[Judged] = []
    volumes: dict[str, float] = {}
    patients: dict[str, bool] = {}
    scans = load_datalist(datalist, folds, require=("slice_labels",), cases=cases)
    files = prediction_files(predictions, [(scan_name(scan["image"]), scan["case"]) for scan in scans])
    for scan, file in progress(list(zip(scans, files, strict=True))):
        mask, mask_affine = read_mask(file)
        # Labels are in the order of the scan's slices.
        affine = header_affine(scan["image"]) if Path(scan["image"]).is_file() else mask_affine
        mask = laid_on(mask, mask_affine, affine, file, scan["image"], NO_ORIENTATION in header_doubts(file) or None)
        axis = slice_axis(affine)
        areas.append((np.moveaxis(mask, axis, 0) > 0).sum(axis=(1, 2)))
        if len(areas[-1]) != len(scan["slice_labels"]):
            raise IchsegError(f"{file}: {len(areas[-1])} slices, but the datalist labels {len(scan['slice_labels'])}")
        probability = probability_beside(file, mask.shape, affine)
        if probability is not None:
            peaks.append(np.moveaxis(probability, axis, 0).max(axis=(1, 2)))
        labels.append(np.asarray(scan["slice_labels"]))
        judged += [
            Judged(scan["image"], str(file), scan.get("label"), index, bool(bleeds), int(size))
            for index, (bleeds, size) in enumerate(zip(labels[-1], areas[-1], strict=True))
        ]
        for name, index in subtypes.get(scan["case"], []):
            by_subtype[name].append(bool(areas[-1][index] > 0))
        patient = scan.get("patient", scan["case"])
        volumes[patient] = volumes.get(patient, 0.0) + hemorrhage_volume(mask, affine)["volume_ml"]
        patients[patient] = patients.get(patient, False) or bool(labels[-1].any())
        if probability is not None:
            highest[patient] = max(highest.get(patient, 0.0), float(peaks[-1].max()))
    area, label = np.concatenate(areas), np.concatenate(labels).astype(bool)
    result: dict[str, float | int] = {
        "scans": len(areas),
        "slices": len(label),
        "positive_slices": int(label.sum()),
        "positive_slices_touched": float((area[label] > 0).mean()) if label.any() else float("nan"),
        "negative_slices_touched": float((area[~label] > 0).mean()) if (~label).any() else float("nan"),
        "slice_auc": roc_auc(area, label),
        "patient_auc": roc_auc([volumes[p] for p in patients], list(patients.values())),
    }
    if len(peaks) == len(areas):
        result["slice_auc_probability"] = roc_auc(np.concatenate(peaks), label)
        result["patient_auc_probability"] = roc_auc([highest[p] for p in patients], list(patients.values()))
    result |= {f"touched_{name}": float(np.mean(hits)) for name, hits in by_subtype.items() if hits}
    if output is not None:
        write_json(Path(output) / "detection.json", result)
        slice_gallery(judged, Path(output) / "gallery.png")
    return result


def _read_subtypes(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Case -> (subtype, slice index) of every slice that carries it; empty without a table or subtypes in it."""
    found: dict[str, list[tuple[str, int]]] = {}
    for (case, index), row in read_slice_table(folder).items():
        for name in SUBTYPES.values():
            if row.get(name) == "1":
                found.setdefault(case, []).append((name, index))
    return found
