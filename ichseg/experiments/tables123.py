"""Tables 1 to 3: complete methods, lesion localization, input sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ichseg.data import load_datalist
from ichseg.defaults import PAPER_PAIR
from ichseg.errors import IchsegError
from ichseg.evaluation.masks import evaluate_masks
from ichseg.experiments.ablation import ROWS
from ichseg.experiments.choices import (
    CHOICES,
    NAN,
    baselines,
    fallback_note,
    figures,
    mask_thresholds,
    row_values,
    thresholds,
    unet_counts,
    unet_masks,
)
from ichseg.experiments.published import TABLE1, TABLE2, TABLE3
from ichseg.experiments.rivals import rival_masks
from ichseg.experiments.study import REAL, Study
from ichseg.experiments.sweep import MASK, threshold_at
from ichseg.experiments.writing import CHOICES_EXPLAINED, save, set_title
from ichseg.io.tables import markdown_table
from ichseg.overrides import SIZE_STEP
from ichseg.report.plots import horizontal_chart

PAIRS = {
    "ResNet34+50": PAPER_PAIR,
    "DenseNet121+169": ("densenet121", "densenet169"),
    "VGG16+19": ("vgg16", "vgg19"),
}
FULL = "U-Net, full supervision"
LESION_COLUMNS = ("CL", "ML", "FPL", "foreground_iou", "miou")


TABLE1_ABOUT = (
    "# Table 1: complete methods\n\nU-Nets, the other methods of the table, and two baselines without training, on the "
    "scans of the validation and test folds. The fully supervised U-Net was trained on the true masks of the training "
    "folds. U-Net probabilities are thresholded at .5; the table lists the threshold of the pseudo-masks they were "
    "trained on."
)


def table1(study: Study) -> str:
    """mIoU of complete methods: U-Nets on pseudo-masks of three pairs of classifiers, and on true masks."""
    size, rows = study.size, []
    given = study.classifiers
    for which in study.sets:
        for method, published in TABLE1.items():
            base = {"set": which, "method": method, "published_bhsd": published[0], "published_bcihm": published[1]}
            if method in PAIRS:
                pair = PAIRS[method]
                if given is not None and not all((given / b / "model.pt").is_file() for b in pair):
                    rows.append({**base, "choice": "", "note": "not run: these classifiers were not given"})
                    continue
                for choice in CHOICES:
                    cut = mask_thresholds(study, study.sets[0], pair, size)[choice]
                    found = figures(unet_counts(study, which, pair, size, choice), MASK)
                    rows.append({**base, "choice": choice, "threshold": cut, **found})
            elif method == FULL:
                if _masks_to_learn_from(study):
                    name = f"full_supervision_{size}"
                    folder = study.segment(name, study.unet(name, size, None), size, which)
                    found = figures(study.mask_counts(which, folder, study.evaluated_folds), MASK)
                    rows.append({**base, "choice": "", **found})
                else:
                    rows.append({**base, "choice": "", "note": "not run: no true masks in the training folds"})
            elif (masks := rival_masks(study, which, method)) is not None:
                found = figures(study.mask_counts(which, masks, study.evaluated_folds), MASK)
                rows.append({**base, "choice": "", **found})
            else:
                rows.append({**base, "choice": "", "note": "published result only"})
        for name, counts, index in baselines(study, which, study.evaluated_folds):
            rows.append({"set": which, "method": name, "choice": "", **figures(counts, index)})
    columns = ("set", "method", "choice", "threshold", "miou", "foreground_iou", "background_iou",
               "published_bhsd", "published_bcihm", "note")  # fmt: skip
    return _report(study, "table1", TABLE1_ABOUT, columns, rows)


def table2(study: Study) -> str:
    """Lesion localization of pseudo-masks (all scans) and of the U-Net (validation and test scans)."""
    pair, size, rows = PAPER_PAIR, study.size, []
    for which in study.sets:
        for method, values in TABLE2.items():
            if method == "Ours":
                continue
            masks = rival_masks(study, which, method)
            row = {"set": which, "method": method, "note": "published result only" if masks is None else ""}
            if masks is not None:
                place = study.output / "evaluation" / which / method
                found = evaluate_masks(masks, study.path(which), place, study.evaluated_folds,
                                       progress=study.progress, with_intervals=False)[0]  # fmt: skip
                row |= {key: found[key] for key in LESION_COLUMNS}
            rows.append(_published(row, values))
        for choice in CHOICES:
            cut = mask_thresholds(study, which, pair, size)[choice]
            for stage, folder, folds in (
                ("pseudo-masks", study.pseudo_masks(which, ROWS["r8"], pair, size, cut), None),
                ("U-Net", unet_masks(study, which, pair, size, choice), study.evaluated_folds),
            ):
                place = study.output / "evaluation" / which / f"{stage}_{choice}"
                for line in evaluate_masks(
                    folder, study.path(which), place, folds, progress=study.progress, with_intervals=False
                ):
                    if line["method"] != "prediction" and choice != CHOICES[0]:
                        continue
                    ours = line["method"] == "prediction"
                    row = {"set": which, "method": f"ours, {stage}" if ours else f"{line['method']} ({stage} scans)",
                           "choice": choice if ours else "", "note": ""}  # fmt: skip
                    row |= {key: line[key] for key in LESION_COLUMNS}
                    rows.append(_published(row, TABLE2["Ours"]) if ours else row)
    columns = ("set", "method", "choice", "CL", "ML", "FPL", "foreground_iou", "miou",
               "published_bhsd", "published_bcihm", "note")  # fmt: skip
    about = (
        "# Table 2: lesion detection\n\nCL: share of true lesions that overlap the mask, ML = 1 − CL, FPL: share of "
        "predicted lesions without a true pixel. Lesions are 8-connected components in slices, over the whole set. A "
        "mask of the whole image has CL 1 and FPL 0, so read both with the IoU. The paper does not say whether its "
        "row is for the pseudo-masks or the U-Net. Both are shown here: pseudo-masks of all scans and the U-Net on "
        "validation and test scans."
    )
    return _report(study, "table2", about, columns, rows, plotted=("CL", "FPL", "foreground_iou"))


def table3(study: Study) -> str:
    """Input sizes 4/3, 1 and 2/3 of the study's, as 512, 384 and 256 in the paper; no CRF."""
    rows: list[dict[str, Any]] = []
    if study.classifiers is not None:
        raise IchsegError("table3 trains classifiers at three sizes; omit --classifiers")
    for which in study.sets:
        for published_size, published in TABLE3.items():
            size = max(round(study.size * published_size / 384 / SIZE_STEP), 1) * SIZE_STEP
            values = {row: row_values(ROWS[row], PAPER_PAIR) for row in ("r6", "r7")}
            counts = study.sweep(which, PAPER_PAIR, size, values)
            for row, what in (("r6", "layer 2"), ("r7", "either layer")):
                chosen = thresholds(study, counts[row])
                for choice in CHOICES:
                    index = chosen[choice]
                    rows.append(
                        {
                            "set": which,
                            "method": f"{size} x {size}, {what}",
                            "choice": choice,
                            "threshold": threshold_at(index),
                            **figures(counts[row], index),
                            "published_bhsd": published[0],
                            "published_bcihm": published[1],
                            "note": f"paper: {published_size} x {published_size}",
                        }
                    )
        for name, found, index in baselines(study, which):
            rows.append({"set": which, "method": name, "choice": "", **figures(found, index)})
    columns = ("set", "method", "choice", "threshold", "miou", "foreground_iou", "background_iou",
               "published_bhsd", "published_bcihm", "note")  # fmt: skip
    about = (
        "# Table 3: input size\n\nSF-CAM, two models, fused over neighboring slices, no CRF, scans with known truth. "
        "The paper's 384 value appears in its Table 4 without layer aggregation and in its Figure 8 with it; "
        "both are shown here."
    )
    return _report(study, "table3", about, columns, rows)


def _masks_to_learn_from(study: Study) -> bool:
    """True if the training and the validation folds both have true hemorrhage."""
    return all(
        any("label" in scan for scan in load_datalist(study.path(REAL), folds))
        for folds in (study.train_folds, study.val_folds)
    )


def _published(row: dict[str, Any], values: Sequence[Sequence[float]]) -> dict[str, Any]:
    words = [" / ".join(f"{v:.1f}" for v in one) for one in values]
    return {"choice": "", **row, "published_bhsd": words[0], "published_bcihm": words[1]}


def _cell(row: dict[str, Any], column: str) -> Any:
    """What the page shows: published figures as printed."""
    value = row.get(column, "" if column in ("note", "choice") else NAN)
    return f"{value:.1f}" if column.startswith("published") and isinstance(value, float) and value == value else value


def _report(
    study: Study,
    name: str,
    about: str,
    columns: Sequence[str],
    rows: list[dict[str, Any]],
    plotted: Sequence[str] = ("foreground_iou", "miou"),
) -> str:
    """Write the table, and a chart of some columns per set."""
    pages, panels = [], []
    shown = [c for c in columns if c != "set"]
    heads = [HEADS.get(c, c.replace("_", " ")) for c in shown]
    heads = [f"{h}: CL / ML / FPL" if name == "table2" and h.startswith("paper") else h for h in heads]
    for which in study.sets:
        mine = [row for row in rows if row["set"] == which]
        table = [[_cell(row, c) for c in shown] for row in mine]
        pages.append(f"## {set_title(study, which)}\n\n{markdown_table(heads, table)}{fallback_note(study, which)}")
        bars = [row for row in mine if any(c in row for c in plotted)]
        labels = [", ".join(str(row[k]) for k in ("method", "choice") if row.get(k)) for row in bars]
        series = {HEADS.get(c, c): [float(row.get(c, NAN)) for row in bars] for c in plotted}
        panels.append((set_title(study, which), labels, series))
    text = f"{about} {CHOICES_EXPLAINED} Ours are fractions from 0 to 1, the paper's are percentages.\n\n" + "\n".join(
        pages
    )
    save(study, name, columns, rows, text)
    horizontal_chart(study.output / f"{name}.png", panels)
    return text


HEADS = {
    "method": "",
    "choice": "threshold chosen by",
    "foreground_iou": "fg IoU",
    "background_iou": "bg IoU",
    "miou": "mIoU",
    "published_bhsd": "paper, BHSD %",
    "published_bcihm": "paper, BCIHM %",
}
