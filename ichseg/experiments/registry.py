"""The experiments by name."""

from __future__ import annotations

from collections.abc import Callable

from ichseg.errors import IchsegError
from ichseg.experiments.figures import figure7, figure8
from ichseg.experiments.study import Study
from ichseg.experiments.table4 import table4
from ichseg.experiments.tables123 import table1, table2, table3

EXPERIMENTS: dict[str, Callable[[Study], str]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "figure7": figure7,
    "figure8": figure8,
}


def run_experiment(name: str, study: Study) -> str:
    """Run one experiment; writes ``<name>.csv``, ``.md`` and ``.png`` into the study's output and returns the Markdown.

    Raises:
        IchsegError: unknown name, or something the experiment needs is missing.
    """
    if name not in EXPERIMENTS:
        raise IchsegError(f"experiment '{name}' is unknown; choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name](study)
