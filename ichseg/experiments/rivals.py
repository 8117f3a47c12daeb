"""The other methods of Tables 1 and 2, run on a study's data with its classifiers and its U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ichseg.data import load_datalist
from ichseg.defaults import PAPER_PAIR
from ichseg.errors import IchsegError
from ichseg.experiments.study import REAL, Study

if TYPE_CHECKING:
    from ichseg.comparison import Bench

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
    from ichseg.comparison import methods

    return methods()[RIVALS[name]].make(_bench(study))


def rival_pseudo_masks(study: Study, name: str) -> tuple[Path, tuple[int, ...]]:
    """Folder of a method's pseudo-masks of the real scans, and the folds it is made of: all with a true mask.

    Args:
        study: as for :func:`rival_masks`.
        name: of :data:`RIVALS`.
    """
    from ichseg.comparison import Scans, methods

    bench = _bench(study)
    folds = tuple(sorted({int(scan["fold"]) for scan in load_datalist(study.datalist) if "label" in scan}))
    pseudo = methods()[RIVALS[name]].pseudo
    if pseudo is None:
        raise IchsegError(f"{name} has no pseudo-masks")
    folder = bench.folder(RIVALS[name], "pseudo_of_all")
    return pseudo(bench, folder, Scans(study.datalist, ",".join(map(str, folds)))), folds


def _bench(study: Study) -> Bench:
    """The study's data and budget, in its folder ``rivals``."""
    from ichseg.comparison import Bench
    from ichseg.presets import Plan

    study.claim()
    budget = {} if study.batch_size is None else {"batch_size": study.batch_size}
    plan = Plan(study.datalist, study.output / "rivals", study.train_folds, study.val_folds, study.test_folds,
                device=study.device, precision=study.precision, progress=study.progress, overrides=budget)  # fmt: skip
    given = {backbone: study.weights(backbone, study.size) for backbone in PAPER_PAIR}
    return Bench(plan, study.size, study.epochs, study.architecture, given=given, gating=study.gating)
