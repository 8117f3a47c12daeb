"""How far two measurements of the same volumes agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Z95 = 1.96


def limits_of_agreement(measured: Sequence[float], true: Sequence[float]) -> dict[str, float | int]:
    """Bias and 95 % limits of agreement (Bland and Altman, Lancet 1986, doi 10.1016/S0140-6736(86)90837-8).

    Args:
        measured, true: one value each per scan.

    Returns:
        ``scans``; ``bias``, the mean of measured minus true; ``lower`` and ``upper``, 1.96 standard deviations (of a
        sample) of the differences below and above it. NaN where there are too few scans: none for the bias, one for
        the limits.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    if len(measured) != len(true):
        raise ValueError(f"{len(measured)} measured values, but {len(true)} true values")
    difference = np.subtract(np.asarray(measured, dtype=float), np.asarray(true, dtype=float))
    bias = float(difference.mean()) if len(difference) else float("nan")
    spread = Z95 * float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    return {"scans": len(difference), "bias": bias, "lower": bias - spread, "upper": bias + spread}
