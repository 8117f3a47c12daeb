"""Volumes and probabilities against the truth, as tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.io.tables import write_csv, write_json
from ichseg.metrics import Calibration, limits_of_agreement
from ichseg.report.plots import agreement_chart, reliability_chart


def write_agreement(output: str | Path, scans: Sequence[Mapping[str, Any]]) -> None:
    """Write ``agreement.json`` and ``agreement.png``: bias and limits of agreement of milliliters.

    Scans that are empty in truth and in prediction are left out, for they agree perfectly and would narrow the limits;
    so are scans of unknown voxel size.

    Args:
        output: a folder.
        scans: rows with ``true_ml`` and ``predicted_ml``.
    """
    sized = [scan for scan in scans if math.isfinite(scan["true_ml"]) and math.isfinite(scan["predicted_ml"])]
    shown = [scan for scan in sized if scan["true_ml"] > 0 or scan["predicted_ml"] > 0]
    measured, true = [scan["predicted_ml"] for scan in shown], [scan["true_ml"] for scan in shown]
    found = limits_of_agreement(measured, true)
    about = {"scans": found["scans"], "left_out_empty": len(sized) - len(shown),
             "left_out_unknown_size": len(scans) - len(sized),
             **{f"{name}_ml": found[name] for name in ("bias", "lower", "upper")}}  # fmt: skip
    write_json(Path(output) / "agreement.json", about)
    if shown:
        agreement_chart(Path(output) / "agreement.png", measured, true, found)


def write_calibration(output: str | Path, calibration: Calibration) -> None:
    """Write ``calibration.csv`` and ``calibration.png``."""
    rows = calibration.rows()
    write_csv(Path(output) / "calibration.csv", list(rows[0]), rows)
    reliability_chart(Path(output) / "calibration.png", rows, calibration.error())
