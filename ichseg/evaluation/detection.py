"""Masks judged by slice labels alone, where no true masks exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data import SUBTYPES, load_datalist
from ichseg.data.datalist import patient_name, read_slice_table
from ichseg.errors import IchsegError
from ichseg.evaluation.intervals import LEVEL, bootstrap_intervals, by_patient
from ichseg.evaluation.truth import prediction_files, probability_beside
from ichseg.io import header_affine, header_doubts, read_mask, scan_name, slice_axis
from ichseg.io.geometry import NO_ORIENTATION
from ichseg.io.lay import laid_on
from ichseg.io.tables import write_csv, write_json
from ichseg.metrics import hemorrhage_volume, roc_auc
from ichseg.report.gallery import Judged, slice_gallery

SLICE_COLUMNS = ("case", "patient", "slice", "label", "area_pixels", "probability")


def evaluate_slices(
    predictions: str | Path,
    datalist: str | Path,
    output: str | Path | None = None,
    folds: str | None = None,
    cases: Sequence[str] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """Compare which slices the masks touch with the slice labels.

    Args:
        predictions: folder of masks.
        datalist: with ``slice_labels``.
        output: folder for ``detection.json`` (with 95 % intervals over patients), ``detection_slices.csv`` and
            ``gallery.png``; None writes nothing.
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
    scans = load_datalist(datalist, folds, require=("slice_labels",), cases=cases)
    files = prediction_files(predictions, [(scan_name(scan["image"]), scan["case"]) for scan in scans])
    seen: list[_Seen] = []
    judged: list[Judged] = []
    for scan, file in progress(list(zip(scans, files, strict=True))):
        one = _looked_at(scan, file, subtypes.get(scan["case"], []))
        seen.append(one)
        judged += [
            Judged(scan["image"], str(file), scan.get("label"), index, bool(bleeds), int(size))
            for index, (bleeds, size) in enumerate(zip(one.labels, one.areas, strict=True))
        ]
    groups = by_patient(seen, [one.patient for one in seen])
    result: dict[str, Any] = _figures(groups)
    if output is not None:
        intervals = bootstrap_intervals(groups, _figures)
        about = {"interval_level": LEVEL, "patients": len(groups), "intervals": intervals}
        write_json(Path(output) / "detection.json", {**result, **about})
        write_csv(Path(output) / "detection_slices.csv", SLICE_COLUMNS, _per_slice(scans, seen))
        slice_gallery(judged, Path(output) / "gallery.png")
    return result


@dataclass
class _Seen:
    """One scan: per slice the area in pixels, the label and, where it is known, the largest probability."""

    patient: str
    areas: np.ndarray
    labels: np.ndarray
    volume_ml: float
    peaks: np.ndarray | None
    subtypes: list[tuple[str, int]]


def _looked_at(scan: dict[str, Any], file: Path, subtypes: list[tuple[str, int]]) -> _Seen:
    mask, mask_affine = read_mask(file)
    # Labels are in the order of the scan's slices.
    affine = header_affine(scan["image"]) if Path(scan["image"]).is_file() else mask_affine
    mask = laid_on(mask, mask_affine, affine, file, scan["image"], NO_ORIENTATION in header_doubts(file) or None)
    axis = slice_axis(affine)
    areas = (np.moveaxis(mask, axis, 0) > 0).sum(axis=(1, 2))
    if len(areas) != len(scan["slice_labels"]):
        raise IchsegError(f"{file}: {len(areas)} slices, but the datalist labels {len(scan['slice_labels'])}")
    probability = probability_beside(file, mask.shape, affine)
    return _Seen(
        patient=patient_name(scan),
        areas=areas,
        labels=np.asarray(scan["slice_labels"]).astype(bool),
        volume_ml=float(hemorrhage_volume(mask, affine)["volume_ml"]),
        peaks=None if probability is None else np.moveaxis(probability, axis, 0).max(axis=(1, 2)),
        subtypes=subtypes,
    )


def _figures(patients: Sequence[Sequence[_Seen]]) -> dict[str, float | int]:
    """What the scans of some patients come to."""
    seen = [one for scans in patients for one in scans]
    area, label = (np.concatenate([getattr(one, name) for one in seen]) for name in ("areas", "labels"))
    bleeds = [any(one.labels.any() for one in scans) for scans in patients]
    result: dict[str, float | int] = {
        "scans": len(seen),
        "slices": len(label),
        "positive_slices": int(label.sum()),
        "positive_slices_touched": float((area[label] > 0).mean()) if label.any() else float("nan"),
        "negative_slices_touched": float((area[~label] > 0).mean()) if (~label).any() else float("nan"),
        "slice_auc": roc_auc(area, label),
        "patient_auc": roc_auc([sum(one.volume_ml for one in scans) for scans in patients], bleeds),
    }
    peaks = [one.peaks for one in seen if one.peaks is not None]
    if len(peaks) == len(seen):
        result["slice_auc_probability"] = roc_auc(np.concatenate(peaks), label)
        highest = [max(one.peaks.max() for one in scans if one.peaks is not None) for scans in patients]
        result["patient_auc_probability"] = roc_auc(highest, bleeds)
    for name in SUBTYPES.values():
        hits = [bool(one.areas[index] > 0) for one in seen for kind, index in one.subtypes if kind == name]
        if hits:
            result[f"touched_{name}"] = float(np.mean(hits))
    return result


def _per_slice(scans: Sequence[dict[str, Any]], seen: Sequence[_Seen]) -> list[dict[str, Any]]:
    """One row per slice: all that figures and intervals are made of."""
    rows: list[dict[str, Any]] = []
    for scan, one in zip(scans, seen, strict=True):
        for index, (label, area) in enumerate(zip(one.labels, one.areas, strict=True)):
            peak = "" if one.peaks is None else round(float(one.peaks[index]), 4)
            rows.append({"case": scan["case"], "patient": one.patient, "slice": index + 1, "label": int(label),
                         "area_pixels": int(area), "probability": peak})  # fmt: skip
    return rows


def _read_subtypes(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Case -> (subtype, slice index) of every slice that carries it; empty without a table or subtypes in it."""
    found: dict[str, list[tuple[str, int]]] = {}
    for (case, index), row in read_slice_table(folder).items():
        for name in SUBTYPES.values():
            if row.get(name) == "1":
                found.setdefault(case, []).append((name, index))
    return found
