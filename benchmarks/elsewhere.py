"""How a model does on scans of other hospitals.

    python benchmarks/elsewhere.py OUT --masked IMAGES MASKS --healthy FOLDER --slices PNG_FOLDER LABELS.csv

Segments each set with ``ichseg segment`` and prints one JSON line: of scans with masks, Dice, milliliters too much and
the share of slices without hemorrhage that are touched; of healthy scans, how many get a mask and the largest one; of
labeled pictures of single slices (8-bit, 0 to 80 HU), the AUC and the shares touched. 95% bootstrap intervals over
scans. ``OUT/masked.csv``, ``healthy.csv`` and ``slices.csv`` hold every case.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ichseg.cli import main as ichseg
from ichseg.evaluation import bootstrap_intervals
from ichseg.io import find_nifti, read_mask, scan_name, slice_axis, write_volume
from ichseg.io.tables import write_csv
from ichseg.metrics import dice, roc_auc
from ichseg.metrics.measures import voxel_ml

PICTURE_HU, PICTURE_MM, PICTURE_STEP = 80.0, 0.49, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--masked", nargs=2, type=Path, metavar=("IMAGES", "MASKS"))
    parser.add_argument("--healthy", type=Path, metavar="FOLDER")
    parser.add_argument("--slices", nargs=2, type=Path, metavar=("PNG_FOLDER", "LABELS"))
    parser.add_argument("--weights", type=Path, help="default: the shipped model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any value of inference.yaml")
    args = parser.parse_args()
    words = [*(["--weights", str(args.weights)] if args.weights else []), *(f"--set={pair}" for pair in args.set)]
    told: dict[str, Any] = {}
    if args.masked:
        rows = _masked(*args.masked, _segmented(args.masked[0], args.output / "masked", words))
        told["masked"] = _told(rows, _masked_figures, args.output / "masked.csv")
    if args.healthy:
        rows = _healthy(_segmented(args.healthy, args.output / "healthy", words))
        told["healthy"] = _told(rows, _healthy_figures, args.output / "healthy.csv")
    if args.slices:
        scans = _pictures(args.slices[0], args.output / "pictures")
        rows = _labeled(args.slices[1], _segmented(scans, args.output / "slices", words))
        told["slices"] = _told(rows, _slice_figures, args.output / "slices.csv")
    print(json.dumps(told))


def _segmented(scans: Path, output: Path, options: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of ``ichseg segment`` by case, each with its mask's file."""
    if ichseg(["segment", str(scans), str(output), "--no-report", *options]) > 1:
        raise SystemExit(f"{scans}: not segmented")
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    if bad := [row["case"] for row in rows if row["status"] in ("failed", "skipped")]:
        raise SystemExit(f"{scans}: not segmented: {', '.join(bad)}")
    return {row["case"]: {**row, "mask": output / f"{row['case']}_ich.nii.gz"} for row in rows}


def _told(rows: list[dict[str, Any]], figures: Any, table: Path) -> dict[str, Any]:
    write_csv(table, list(rows[0]), rows)
    intervals = bootstrap_intervals([[row] for row in rows], lambda groups: figures([row for (row,) in groups]))
    return {name: _rounded(value, intervals.get(name)) for name, value in figures(rows).items()}


def _rounded(value: Any, interval: list[float] | None) -> Any:
    value = round(value, 3) if isinstance(value, float) else value
    return value if interval is None else [value, *(round(end, 3) for end in interval)]


def _masked(images: Path, masks: Path, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for file in find_nifti(images):
        case = scan_name(file)
        truth, affine = read_mask(masks / file.name)
        mask = read_mask(found[case]["mask"])[0] > 0
        truth, axis = truth > 0, slice_axis(affine)
        empty = ~np.moveaxis(truth, axis, 0).any(axis=(1, 2))
        touched = np.moveaxis(mask, axis, 0).any(axis=(1, 2))
        rows.append({"case": case, "status": found[case]["status"], "unusual": found[case].get("unusual", ""),
                     "dice": round(dice(torch.from_numpy(mask), torch.from_numpy(truth)), 4),
                     "true_ml": round(float(truth.sum()) * voxel_ml(affine), 2),
                     "predicted_ml": round(float(mask.sum()) * voxel_ml(affine), 2),
                     "overlap": int((mask & truth).sum()), "union": int((mask | truth).sum()),
                     "positive_slices": int((~empty).sum()), "positive_touched": int((touched & ~empty).sum()),
                     "empty_slices": int(empty.sum()), "empty_touched": int((touched & empty).sum())})  # fmt: skip
    return rows


def _masked_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = {name: sum(row[name] for row in rows) for name in rows[0] if isinstance(rows[0][name], int)}
    return {
        "scans": len(rows),
        "dice_per_scan": float(np.mean([row["dice"] for row in rows])),
        "foreground_iou": total["overlap"] / max(total["union"], 1),
        "most_ml_over": max(row["predicted_ml"] - row["true_ml"] for row in rows),
        "positive_slices_touched": total["positive_touched"] / max(total["positive_slices"], 1),
        "empty_slices_touched": total["empty_touched"] / max(total["empty_slices"], 1),
    }


def _healthy(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("case", "status", "probability", "unusual", "volume_ml", "message")
    return [{name: row.get(name, "") for name in names} for row in found.values()]


def _healthy_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    volumes = [float(row["volume_ml"] or 0) for row in rows]
    return {"scans": len(rows), "with_mask": float(np.mean(np.array(volumes) > 0)), "most_ml": max(volumes)}


def _pictures(folder: Path, output: Path) -> Path:
    """8-bit pictures as NIfTI scans of one slice, clipped as they were."""
    affine = np.diag([-PICTURE_MM, -PICTURE_MM, PICTURE_STEP, 1.0])  # columns to the left, rows to the back
    for file in sorted(folder.glob("*.png")):
        gray = np.asarray(Image.open(file).convert("L"), dtype=np.float32)
        write_volume(output / f"{file.stem}.nii.gz", (gray.T * (PICTURE_HU / 255))[..., None], affine)
    return output


def _labeled(labels: Path, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    with labels.open(encoding="utf-8") as lines:
        known = {row["name"]: row for row in csv.DictReader(lines)}
    return [{"case": case, "label": int(known[case]["hemorrhage"]), "subtypes": known[case].get("subtypes", ""),
             "probability": row.get("probability", ""), "volume_ml": row.get("volume_ml", "")}
            for case, row in found.items()]  # fmt: skip


def _slice_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    label = np.array([row["label"] for row in rows]) > 0
    touched = np.array([float(row["volume_ml"]) for row in rows]) > 0
    told: dict[str, Any] = {
        "slices": len(rows),
        "positive_touched": float(touched[label].mean()) if label.any() else float("nan"),
        "negative_touched": float(touched[~label].mean()) if (~label).any() else float("nan"),
    }
    if all(row["probability"] != "" for row in rows):
        told["auc"] = roc_auc([float(row["probability"]) for row in rows], label)
    return told


if __name__ == "__main__":
    main()
