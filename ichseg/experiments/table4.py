"""Table 4: the ablation, one row per step of the method."""

from __future__ import annotations

from typing import Any

from ichseg.defaults import PAPER_PAIR
from ichseg.experiments.ablation import ROWS
from ichseg.experiments.choices import (
    CHOICES,
    NAN,
    baselines,
    fallback_note,
    figures,
    mask_thresholds,
    pseudo_counts,
    row_values,
    thresholds,
    unet_counts,
    unet_name,
)
from ichseg.experiments.published import DIFFERENCES, TABLE4, differences, wrong_differences
from ichseg.experiments.study import Study
from ichseg.experiments.sweep import MASK, Counts, threshold_at
from ichseg.experiments.writing import save, set_title
from ichseg.io.tables import markdown_table
from ichseg.metrics import roc_auc
from ichseg.report.plots import bar_chart

SWEPT = tuple(f"r{n}" for n in range(1, 8))
COLUMNS = ("set", "row", "name", "sample", "choice", "threshold", "miou", "foreground_iou", "background_iou",
           "published_bhsd", "published_bcihm")  # fmt: skip


def table4(study: Study) -> str:
    """Run the nine rows on every set; oracle and validation-chosen thresholds are columns of their own."""
    pair, size = PAPER_PAIR, study.size
    values = {row: row_values(ROWS[row], pair) for row in SWEPT}
    for row in ("r3", "r4", "r5", "r6"):  # without aggregation: the other maps it could have been
        values |= {f"{row}_layer_{layers}": row_values(ROWS[row], pair, layers) for layers in ("1", "mean")}
    lines: list[dict[str, Any]] = []
    pages = []
    for which in study.sets:
        counts = study.sweep(which, pair, size, values)
        # (row, choice) -> counts and threshold, over all scans and over those nobody trained on
        for row in values:
            chosen = thresholds(study, counts[row])
            for choice in CHOICES:
                index = chosen[choice]
                shown = threshold_at(index)
                lines += _lines(study, which, row, choice, shown, counts[row], index)
        for choice in CHOICES:
            cut = mask_thresholds(study, which, pair, size)[choice]
            lines += _lines(study, which, "r8", choice, cut, pseudo_counts(study, which, pair, size, choice), MASK)
            _, learned = unet_name(study, pair, size, choice)
            lines.append(
                _line(which, "r9", "val+test", choice, learned, unet_counts(study, which, pair, size, choice), MASK)
            )
        for sample, folds in (("all", None), ("val+test", study.evaluated_folds)):
            for name, found, index in baselines(study, which, folds):
                lines.append(_line(which, name, sample, "", NAN, found, index))
        page = _page(study, which, [line for line in lines if line["set"] == which])
        pages.append(page + fallback_note(study, which) + _classifiers(study, counts))
    text = f"# Table 4: gain of each step\n\n{_about(study)}\n" + "\n".join(pages)
    save(study, "table4", COLUMNS, lines, text)
    _plot(study, lines)
    return text


def _lines(study, which, row, choice, threshold, counts: Counts, index) -> list[dict[str, Any]]:
    """On all scans, and on those nobody trained on."""
    held_out = counts.of_folds(study.evaluated_folds)
    return [
        _line(which, row, "all", choice, threshold, counts, index),
        _line(which, row, "val+test", choice, threshold, held_out, index),
    ]


def _line(which, row, sample, choice, threshold, counts: Counts, index) -> dict[str, Any]:
    base = row.split("_")[0]
    name = ROWS[base].name(PAPER_PAIR) if base in ROWS else row
    published = TABLE4.get(row, (NAN, NAN))
    return {
        "set": which,
        "row": row,
        "name": name + (f", {row.partition('_')[2].replace('_', ' ')}" if "_" in row else ""),
        "sample": sample,
        "choice": choice,
        "threshold": threshold,
        **figures(counts, index),
        "published_bhsd": published[0],
        "published_bcihm": published[1],
    }


def _page(study: Study, which: str, lines: list[dict[str, Any]]) -> str:
    found = {(line["row"], line["sample"], line["choice"]): line for line in lines}

    def cells(row: str, sample: str, choice: str) -> list[Any]:
        line = found.get((row, sample, choice))
        return [NAN, NAN, NAN] if line is None else [line["threshold"], line["miou"], line["foreground_iou"]]

    table = []
    for row in ROWS:
        sample = "val+test" if row == "r9" else "all"
        name = ROWS[row].name(PAPER_PAIR)
        by_choice = [*cells(row, sample, "oracle"), *cells(row, sample, "validation")]
        held_out = cells(row, "val+test", "validation")[1:]
        table.append([row, name, *(f"{v:.1f}" for v in TABLE4[row]), sample, *by_choice, *held_out])
    for line in lines:
        if not line["choice"]:
            values = [NAN, line["miou"], line["foreground_iou"]]
            held = values[1:] if line["sample"] == "val+test" else [NAN, NAN]
            table.append(["", line["name"], "", "", line["sample"], *values, *values, *held])
    head = ["", "", "paper, BHSD %", "paper, BCIHM %", "sample", "oracle threshold", "mIoU", "fg IoU",
            "validation threshold", "mIoU", "fg IoU", "mIoU, val+test", "fg IoU, val+test"]  # fmt: skip
    layers = [
        [row, *(cells(name, "all", c)[1] for c in CHOICES for name in (f"{row}_layer_1", row, f"{row}_layer_mean"))]
        for row in ("r3", "r4", "r5", "r6")
    ]
    ours = {
        choice: {row: 100 * cells(row, "val+test" if row == "r9" else "all", choice)[1] for row in ROWS}
        for choice in CHOICES
    }
    steps = [
        [f"{a} − {b}", what, *(f"{v:+.1f}" for v in quoted), *(_signed(differences(ours[c])[a, b]) for c in CHOICES)]
        for (a, b), (quoted, what) in DIFFERENCES.items()
    ]
    return (
        f"## {set_title(study, which)}\n\n{markdown_table(head, table)}\n"
        "Gain of each step in mIoU points (r9 − r8 compares two different samples, as in the paper):\n\n"
        + markdown_table(["", "step", "paper, BHSD", "paper, BCIHM", "ours, oracle", "ours, validation"], steps)
        + "\nRows without layer aggregation, by the map used (mIoU):\n\n"
        + markdown_table(
            ["", *(f"{layer}, {c}" for c in CHOICES for layer in ("layer 1", "layer 2", "mean of both"))], layers
        )
    )


def _classifiers(study: Study, counts: dict[str, Counts]) -> str:
    """What the classifiers say of the slices: nothing after them can be better."""
    table = []
    for row in ("r3", "r4", "r5"):
        for sample, found in (("all", counts[row]), ("val+test", counts[row].of_folds(study.evaluated_folds))):
            positive = found.positive > 0
            table.append(
                ["+".join(PAPER_PAIR[m] for m in ROWS[row].models), sample, int(positive.sum()), int((~positive).sum()),
                 roc_auc(found.probability, positive), _share(found.gated[positive]), _share(found.gated[~positive])]
            )  # fmt: skip
    head = [
        "",
        "sample",
        "positive slices",
        "negative slices",
        "slice AUC",
        "share of positives with a map",
        "share of negatives with a map",
    ]
    return (
        "\nThe classifiers on the same slices (a slice classified as negative has no map and an empty mask):\n\n"
        + markdown_table(head, table)
    )


def _signed(value: float) -> str:
    return "–" if value != value else f"{value:+.1f}"


def _share(flags) -> float:
    return float(flags.mean()) if len(flags) else NAN


def _about(study: Study) -> str:
    wrong = wrong_differences()
    return (
        "mIoU is the mean of background and foreground IoU, pooled over all slices. Predicting all background scores "
        "about 0.5, so read it with the foreground IoU. Rows r1 to r8 are pseudo-masks of all scans with a known true "
        "mask; r9 is the U-Net on validation and test scans. The last columns compare all rows on those scans. The "
        "oracle threshold is the best between .10 and .70 on the masks of all scans, and is tested on them, as in the "
        "paper. The validation threshold is the best on the validation folds. Rows r8 and r9 use the threshold of r7. "
        "The U-Net is trained on real scans, with pseudo-masks at the threshold of the first data set below. Rows "
        "without layer aggregation use layer 2.\n\n"
        + ("The 16 differences quoted in the paper agree with its table.\n" if not wrong else "\n".join(wrong) + "\n")
    )


def _plot(study: Study, lines: list[dict[str, Any]]) -> None:
    panels = []
    for which in study.sets:
        value = {(x["row"], x["sample"], x["choice"]): x["miou"] for x in lines if x["set"] == which}
        ours = {
            f"ours, {c} threshold": [value.get((r, "val+test" if r == "r9" else "all", c), NAN) for r in ROWS]
            for c in CHOICES
        }
        marks = {
            name: [value[name, "val+test" if r == "r9" else "all", ""] for r in ROWS]
            for name in ("all background", "HU rule, no learning")
        }
        panels.append((set_title(study, which), ours, marks))
    bar_chart(
        study.output / "table4.png",
        list(ROWS),
        [(t, {"paper, BCIHM": [TABLE4[r][1] / 100 for r in ROWS], **ours}, marks) for t, ours, marks in panels],
        "mIoU",
    )
