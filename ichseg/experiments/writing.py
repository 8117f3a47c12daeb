"""What every experiment writes, and how its output speaks of what it was run on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ichseg.experiments.study import IMPLANTS, Study
from ichseg.io import write_text
from ichseg.io.tables import write_csv

CHOICES_EXPLAINED = (
    "Oracle: the threshold between .10 and .70 with the best mIoU on all true masks of the data set, as in the paper. "
    "Validation: the best on the validation folds. Both apply to the fused maps, before the CRF and the U-Net."
)


def save(study: Study, name: str, columns: Sequence[str], rows: list[dict[str, Any]], text: str) -> None:
    """Write ``<name>.csv`` and ``<name>.md``, the latter with the settings at its end."""
    write_csv(study.output / f"{name}.csv", columns, rows)
    write_text(study.output / f"{name}.md", f"{text}\n{settings_line(study)}\n")


def settings_line(study: Study) -> str:
    """What the run was made with."""
    given = "supplied" if study.classifiers is not None else f"trained for at most {study.epochs} epochs"
    batch = "from the bundles" if study.batch_size is None else str(study.batch_size)
    chosen = "".join(f", {setting}" for setting in study.settings)
    return (
        f"Slices of {study.size} x {study.size} pixels, classifiers {given}, U-Net ({study.architecture}) for at most "
        f"{study.epochs} epochs, batch size {batch}, {study.precision}{chosen}; training folds {study.train_folds}, "
        f"validation folds {study.val_folds}, test folds {study.test_folds}."
    )


def set_title(study: Study, which: str) -> str:
    """A heading for one data set: its name, and how much true hemorrhage there is to measure against."""
    content = json.loads(study.path(which).read_text(encoding="utf-8"))
    name = content.get("name") or study.path(which).parent.name
    kind = " (semi-synthetic)" if which == IMPLANTS or content.get("semi_synthetic") else ""
    truth = study.rule_counts(which)
    bleeding = {case for case, pixels in zip(truth.case.tolist(), truth.positive.tolist(), strict=True) if pixels}
    empty = len(set(truth.case.tolist())) - len(bleeding)
    slices = int((truth.positive > 0).sum())
    scans = f"{len(bleeding)} scan{'s' * (len(bleeding) != 1)}"
    without = f"{empty} scan{'s' * (empty != 1)} without"
    return f"{name}{kind}: {slices} slices with hemorrhage in {scans}, {without}"
