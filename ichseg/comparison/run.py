"""All methods on one datalist under one protocol: a table, a picture of the same slices, and the training curves."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ichseg.comparison.bench import VALIDATED, Bench, masked_patients
from ichseg.comparison.methods import MASKS, NOTHING, Method, methods
from ichseg.comparison.pictures import slices_picture
from ichseg.data import check_folds, load_datalist
from ichseg.data.datalist import datalist_hash, images_hash, patient_name
from ichseg.errors import IchsegError, first_cause, one_line
from ichseg.io import write_text
from ichseg.io.tables import markdown_table, write_csv
from ichseg.overrides import check_numbers
from ichseg.presets import evaluate
from ichseg.provenance import Record
from ichseg.report.plots import history_chart

logger = logging.getLogger(__name__)
RESULTS, IMPLANTS = "results", "implants/results"
# Column -> where it stands: folder and file of a method, and the key there.
FIGURES = {
    "slice AUC": (RESULTS, "detection", "slice_auc"),
    "patient AUC": (RESULTS, "detection", "patient_auc"),
    "negative slices touched": (RESULTS, "detection", "negative_slices_touched"),
    "positive slices touched": (RESULTS, "detection", "positive_slices_touched"),
    "Dice of positive slices": (RESULTS, "evaluation", "dice_positive_slices"),
    "foreground IoU": (RESULTS, "evaluation", "foreground_iou"),
    "two-class mIoU": (RESULTS, "evaluation", "miou"),
    "CL": (RESULTS, "evaluation", "CL"),
    "FPL": (RESULTS, "evaluation", "FPL"),
    "Dice of implants": (IMPLANTS, "evaluation", "dice_positive_slices"),
}
COLUMNS = ("method", "title", "learns_from", "control", *FIGURES, "published", "note")
ABOUT = """# Comparison

Every method was trained on the same scans at the same size (the HU rule learns nothing); its masks of the test folds
are measured here. The validation folds chose epochs: by slice labels, by pseudo-masks, or by true masks where a
method learns from those. Methods with pseudo-masks train the same U-Net on them, and its masks are measured; HGI-SAM
and the automated ensemble have no U-Net. Slice AUC is that of the marked area, or of the largest probability where a
method gives one. Implants are hemorrhage drawn into scans of the test folds, whose masks are exact; no method was
trained on their kind. Published values were measured on other scans, and each with its own metric: compare them only
with the column of that name.
"""


def compare(
    bench: Bench, names: Sequence[str], controls: bool = False, implants: Path | None = None
) -> list[dict[str, Any]]:
    """Run methods, measure their held-out masks, and write ``comparison.csv``, ``.md`` and pictures.

    What is there already is not made again. A method that fails does not stop the others; its row says why.

    Args:
        bench: data and budget.
        names: of :data:`ichseg.defaults.METHODS`.
        controls: also run every method that learns untrained.
        implants: datalist of drawn hemorrhage in scans of the test folds, measured apart.

    Returns:
        one row per method, and per control, with the keys :data:`COLUMNS`.

    Raises:
        IchsegError: before anything is trained: an unknown method, folds that do not fit, or a folder with another
            comparison.
    """
    known = methods()
    names = list(dict.fromkeys(names))
    if not names:
        raise IchsegError(f"no method is named; choose from {', '.join(known)}")
    for name in names:
        if name not in known:
            raise IchsegError(f"method '{name}' is unknown; choose from {', '.join(known)}")
    plan = bench.plan
    check_numbers({"size": bench.size, "epochs": bench.epochs})
    check_folds(plan.datalist, training=plan.train_folds, validation=plan.val_folds, test=plan.test_folds)
    load_datalist(plan.datalist, require=("slice_labels",))
    if implants is not None:
        check_folds(implants, test=plan.test_folds)
        load_datalist(implants, plan.test_folds, require=("slice_labels", "label"))
    record = Record(plan.output, {
        "datalist": datalist_hash(plan.datalist), "images": images_hash(plan.datalist),
        "size": bench.size, "epochs": bench.epochs, "architecture": bench.architecture,
        "folds": [plan.train_folds, plan.val_folds, plan.test_folds], "precision": plan.precision, "seed": plan.seed,
    }, optional=("images",))  # fmt: skip
    record.check()
    record.write()
    rows = []
    for one in (bench, replace(bench, untrained=True)) if controls else (bench,):
        for name in names:
            if one.untrained and known[name].learns_from == NOTHING:
                continue
            rows.append(_row(one, name, known[name], implants))
            _write_table(bench, rows)
    _write_page(bench, rows)
    return rows


def _row(bench: Bench, name: str, method: Method, implants: Path | None) -> dict[str, Any]:
    published = "; ".join(f"{metric} {value:.3f}".rstrip("0") for metric, value in method.published.items())
    row: dict[str, Any] = {
        "method": name, "title": method.title, "learns_from": method.learns_from, "published": published,
        "control": "untrained" if bench.untrained else "", "note": "",
    }  # fmt: skip
    try:
        masks = method.make(bench)
        evaluate(bench.plan, masks, bench.folder(name, RESULTS), bench.plan.test_folds)
        if implants is not None:
            drawn = replace(bench, implants=implants)
            plan = replace(bench.plan, datalist=implants)
            evaluate(plan, method.make(drawn), bench.folder(name, IMPLANTS), bench.plan.test_folds)
    except SystemExit:  # a bundle that could not do all of its scans, and has said so
        return {**row, "note": "failed: some scans could not be processed; see its results.csv"}
    except Exception as error:  # whatever it is, the other methods go on
        logger.debug("%s", name, exc_info=True)
        return {**row, "note": f"failed: {one_line(first_cause(error))}"}
    for column, (folder, file, key) in FIGURES.items():
        path = bench.folder(name, folder) / f"{file}.json"
        if path.is_file() and (folder == RESULTS or implants is not None):
            content = json.loads(path.read_text(encoding="utf-8"))
            row[column] = (content["methods"][0] if file == "evaluation" else content).get(key)
            if key.endswith("auc"):
                row[column] = content.get(f"{key}_probability", row[column])
    row["masks"] = masks
    return row


def _write_table(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    write_csv(bench.plan.output / "comparison.csv", COLUMNS, rows)


def _write_page(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    output = bench.plan.output
    shown = ("title", "learns_from", "control", *FIGURES, "published", "note")
    sometimes = ("control", "note", "Dice of implants")
    shown = tuple(c for c in shown if c not in sometimes or any(row.get(c) not in ("", None) for row in rows))
    table = markdown_table([c.replace("_", " ") for c in shown], [[row.get(c) for c in shown] for row in rows])
    budget = (
        f"Slices of {bench.size} x {bench.size} pixels, at most {bench.epochs} epochs per network, U-Net "
        f"({bench.architecture}), {bench.plan.precision or 'fp32'}, seed {bench.plan.seed}; training folds "
        f"{bench.plan.train_folds}, validation folds {bench.plan.val_folds}, test folds {bench.plan.test_folds}."
    )
    text = f"{ABOUT}\n{table}\n{budget}\n"
    if any(row["learns_from"] == MASKS for row in rows):
        text += _about_masks(bench.plan.datalist, bench.plan.train_folds, bench.plan.val_folds)
    made = [row for row in rows if row.get("masks") is not None]
    if made and slices_picture(bench, {_name(row): row["masks"] for row in made}, output / "comparison.png"):
        text += "\n![The same slices, one column per method](comparison.png)\n"
    if histories := _histories(bench):
        history_chart(output / "curves.png", histories)
        text += "\n![Training curves](curves.png)\n"
    write_text(output / "comparison.md", text)


def _about_masks(datalist: Path, train_folds: str, val_folds: str) -> str:
    masked = len(masked_patients(datalist, train_folds))
    patients = {patient_name(s) for s in load_datalist(datalist, train_folds) if any(s["slice_labels"])}
    text = (
        f"\nMethods that learn from masks see those of {masked} of the {len(patients)} training patients with "
        "hemorrhage; no other method sees one."
    )
    if not masked_patients(datalist, val_folds):
        text += f" The validation folds have no masks, so one in {VALIDATED} of these patients validates."
    return f"{text}\n"


def _name(row: dict[str, Any]) -> str:
    return f"{row['method']} {row['control']}".strip()


def _histories(bench: Bench) -> dict[str, list[dict[str, float]]]:
    """Training -> its history, of all trainings in the output."""
    root = replace(bench, untrained=False).folder()
    found = {}
    for file in sorted(root.rglob("history.csv")):
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
        if rows:
            found[str(file.parent.relative_to(root))] = rows
    return found
