"""Figure 7, pseudo-masks slice by slice; figure 8, the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from ichseg.data.folds import parse_folds
from ichseg.defaults import PAPER_PAIR, PAPER_THRESHOLD
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
)
from ichseg.experiments.rivals import RIVALS, rival_pseudo_masks
from ichseg.experiments.study import REAL, Study
from ichseg.experiments.sweep import HIGHEST, LOWEST, MASK, THRESHOLDS, Counts, threshold_at
from ichseg.experiments.writing import save, set_title
from ichseg.io.tables import markdown_table
from ichseg.report.plots import box_chart, line_chart

# Best thresholds the paper reports for the OR rule, with the mIoU in percent.
PUBLISHED_BEST = {"BHSD": (0.17, 62.6), "BCIHM": (0.22, 63.7)}


def figure7(study: Study) -> str:
    """Two-class mIoU of every slice with hemorrhage, for the pseudo-masks of each row, at the validation threshold.

    The other methods of the paper's tables decide without a threshold, or with one of their own.
    """
    pair, size = PAPER_PAIR, study.size
    swept = [f"r{n}" for n in range(1, 8)]
    rows: list[dict[str, Any]] = []
    pages, panels = [], []
    for which in study.sets:
        counts = study.sweep(which, pair, size, {row: row_values(ROWS[row], pair) for row in swept})
        found: dict[str, tuple[float, Counts, int]] = {}
        for row in swept:
            chosen = thresholds(study, counts[row])
            index = chosen["validation"]
            if index is None:  # the same for every row, as for the masks with CRF
                index = int(np.searchsorted(THRESHOLDS, np.float32(PAPER_THRESHOLD)))
            found[row] = (threshold_at(index), counts[row], index)
        cut = mask_thresholds(study, which, pair, size)["validation"]
        found["r8"] = (cut, pseudo_counts(study, which, pair, size, "validation"), MASK)
        names = {row: ROWS[row].name(pair) for row in found}
        if which == REAL:
            for rival in RIVALS:
                names[rival] = "pseudo-masks"
                found[rival] = (NAN, study.mask_counts(which, *rival_pseudo_masks(study, rival)), MASK)
        nothing = float(np.mean(baselines(study, which)[0][1].miou_per_slice(len(THRESHOLDS) - 1)))
        table, boxes = [], {}
        for row, (threshold, one, index) in found.items():
            values = one.miou_per_slice(index)
            for case, value in zip(one.case[one.positive > 0], values, strict=True):
                rows.append({"set": which, "row": row, "case": case, "threshold": threshold, "miou": float(value)})
            quartiles = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
            table.append([row, names[row], threshold, float(np.mean(values)), *quartiles])
            boxes[row] = values.tolist()
        head = ["", "", "threshold", "mean", "lower quartile", "median", "upper quartile"]
        page = f"{markdown_table(head, table)}\nAll background: {nothing:.3f}\n{fallback_note(study, which)}"
        pages.append(f"## {set_title(study, which)}\n\n{page}")
        panels.append((set_title(study, which), boxes, {"all background": nothing}))
    text = (
        "# Figure 7: pseudo-masks per slice\n\nTwo-class mIoU of each slice with true hemorrhage; slices without "
        "hemorrhage have no foreground IoU and are excluded. AffinityNet, EDAM, RCA, and AE are measured on real scans "
        "only, in the slices that may get a pseudo-mask of ours. The paper shows box plots without numbers.\n\n"
        + "\n".join(pages)
    )
    save(study, "figure7", ("set", "row", "case", "threshold", "miou"), rows, text)
    box_chart(study.output / "figure7.png", panels, "mIoU per slice")
    return text


def figure8(study: Study) -> str:
    """mIoU over the threshold for OR and AND of the two layers, without CRF."""
    pair, size = PAPER_PAIR, study.size
    values = row_values(ROWS["r7"], pair)
    rows: list[dict[str, Any]] = []
    pages, panels = [], []
    for which in study.sets:
        # The OR curve is row r7 of Table 4 at every threshold: counted once for both.
        counts = study.sweep(which, pair, size, {"r7": values, "r7_and": {**values, "rule": "and"}})
        curves, table = {}, []
        for rule, row in (("OR", "r7"), ("AND", "r7_and")):
            shown = range(LOWEST, HIGHEST + 1)
            found = [figures(counts[row], k) for k in shown]
            rows += [
                {"set": which, "rule": rule, "threshold": threshold_at(k), **one}
                for k, one in zip(shown, found, strict=True)
            ]
            axis = [threshold_at(k) for k in shown]
            curves[f"{rule}, mIoU"] = (axis, [one["miou"] for one in found])
            curves[f"{rule}, foreground IoU"] = (axis, [one["foreground_iou"] for one in found])
            chosen = thresholds(study, counts[row])
            for choice in CHOICES:
                one = figures(counts[row], chosen[choice])
                at = threshold_at(chosen[choice])
                table.append([rule, choice, at, one["miou"], one["foreground_iou"]])
            for k in range(LOWEST, HIGHEST + 1, 10):
                one = figures(counts[row], k)
                table.append([rule, "grid", threshold_at(k), one["miou"], one["foreground_iou"]])
        names = baselines(study, which)
        for name, found_counts, k in names:
            one = figures(found_counts, k)
            table.append(["", name, NAN, one["miou"], one["foreground_iou"]])
        page = markdown_table(["rule", "threshold chosen by", "threshold", "mIoU", "fg IoU"], table)
        pages.append(f"## {set_title(study, which)}\n\n{page}{fallback_note(study, which)}")
        panels.append((set_title(study, which), curves, {name: c.miou(k) for name, c, k in names}))
    best = "; ".join(f"{name} {at} with {value} %" for name, (at, value) in PUBLISHED_BEST.items())
    text = (
        "# Figure 8: the threshold\n\nSF-CAM of two layers and two models, fused over neighboring slices, no CRF. A "
        "pixel is hemorrhage if either layer (OR) or both layers (AND) exceed the threshold. The paper's best for OR, "
        f"chosen on the evaluated masks: {best}. In the paper, OR is always better than AND. Validation folds: "
        f"{', '.join(map(str, parse_folds(study.val_folds)))}.\n\n" + "\n".join(pages)
    )
    save(study, "figure8", ("set", "rule", "threshold", "miou", "foreground_iou", "background_iou"), rows, text)
    line_chart(study.output / "figure8.png", panels, ("threshold", "IoU"))
    return text
