"""The other methods of Tables 1 and 2, run on a study's data with its classifiers and its U-Net."""

from __future__ import annotations

from pathlib import Path

from ichseg.defaults import PAPER_PAIR
from ichseg.experiments.study import REAL, Study

# Name in the tables -> in ichseg compare.
RIVALS = {"AffinityNet": "psa", "EDAM": "edam", "RCA": "rca", "AE": "ae"}


def rival_masks(study: Study, which: str, name: str) -> Path | None:
    """Folder of a method's masks of the validation and test scans; None for a set it is not run on.

    Args:
        study: its scans, classifiers, size and budget.
        which: the set; the methods learn from the real scans and are measured on them.
        name: of :data:`RIVALS`.
    """
    if which != REAL:
        return None
    from ichseg.comparison import Bench, methods
    from ichseg.presets import Plan

    study.claim()
    budget = {} if study.batch_size is None else {"batch_size": study.batch_size}
    plan = Plan(study.datalist, study.output / "rivals", study.train_folds, study.val_folds, study.test_folds,
                device=study.device, precision=study.precision, progress=study.progress, overrides=budget)  # fmt: skip
    given = {backbone: study.weights(backbone, study.size) for backbone in PAPER_PAIR}
    return methods()[RIVALS[name]].make(Bench(plan, study.size, study.epochs, study.architecture, given=given))
