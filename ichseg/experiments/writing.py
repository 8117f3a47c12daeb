"""What every experiment writes, and how its output speaks of what it was run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ichseg.experiments.study import IMPLANTS, Study
from ichseg.io import write_text
from ichseg.report.tables import write_csv


def save(study: Study, name: str, columns: Sequence[str], rows: list[dict[str, Any]], text: str) -> None:
    """Write ``<name>.csv`` and ``<name>.md``, the latter with the settings at its end."""
    write_csv(study.output / f"{name}.csv", columns, rows)
    write_text(study.output / f"{name}.md", f"{text}\n{settings_line(study)}\n")


def settings_line(study: Study) -> str:
    """What the run was made with."""
    given = "given" if study.classifiers is not None else f"trained for at most {study.epochs} epochs"
    chosen = "".join(f", {setting}" for setting in study.settings)
    batch = "the bundles' own" if study.batch_size is None else str(study.batch_size)
    return (
        f"Slices of {study.size} x {study.size} pixels, classifiers {given}, U-Net ({study.architecture}) for at most "
        f"{study.epochs} epochs, batch size {batch}, {study.precision}{chosen}; folds {study.train_folds} train, "
        f"{study.val_folds} validate, {study.test_folds} test."
    )


def set_title(study: Study, which: str) -> str:
    """A heading for one data set, with what its truth amounts to."""
    scans = study.scans(which)
    masked = sum(scan.label is not None for scan in scans)
    kind = "Implanted hemorrhage (semi-synthetic)" if which == IMPLANTS else "Real hemorrhage"
    return f"{kind}: {masked} scan{'s' * (masked != 1)} with masks, {len(scans) - masked} known to be empty"
