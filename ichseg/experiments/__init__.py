"""The tables and figures of the paper, run on a datalist: our figures beside the published ones."""

from ichseg.experiments.ablation import ROWS, Row
from ichseg.experiments.published import DIFFERENCES, TABLE1, TABLE2, TABLE3, TABLE4, differences
from ichseg.experiments.registry import EXPERIMENTS, run_experiment
from ichseg.experiments.study import Study
from ichseg.experiments.sweep import THRESHOLDS, Counts

__all__ = [
    "DIFFERENCES",
    "EXPERIMENTS",
    "ROWS",
    "TABLE1",
    "TABLE2",
    "TABLE3",
    "TABLE4",
    "THRESHOLDS",
    "Counts",
    "Row",
    "Study",
    "differences",
    "run_experiment",
]
