"""Confidence intervals: how much a figure would vary with other patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

RESAMPLES, LEVEL = 1000, 0.95
Part = TypeVar("Part")


def by_patient(parts: Sequence[Part], patients: Sequence[str]) -> list[list[Part]]:
    """What belongs to the same patient, together, in the order of coming."""
    groups: dict[str, list[Part]] = {}
    for part, patient in zip(parts, patients, strict=True):
        groups.setdefault(patient, []).append(part)
    return list(groups.values())


def bootstrap_intervals(
    groups: Sequence[Sequence[Part]],
    figures: Callable[[Sequence[Sequence[Part]]], Mapping[str, Any]],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile bootstrap (Efron 1979) over patients: slices of one patient are alike, and never drawn apart.

    Args:
        groups: the parts of every patient.
        figures: groups -> figures by name; a patient who is drawn twice is two groups. A figure that is not a float,
            or is NaN or absent in most resamples, gets no interval.
        resamples: how often as many patients are drawn, with replacement.
        level: share of the resamples inside the interval.
        seed: of the draws.

    Returns:
        name -> [low, high]; empty for fewer than two patients.
    """
    if len(groups) < 2:
        return {}
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = rng.integers(len(groups), size=len(groups))
        drawn.append(figures([groups[patient] for patient in chosen]))
    ends = (1 - level) / 2, (1 + level) / 2
    intervals = {}
    for name in figures(groups):
        values = np.array([one[name] for one in drawn if isinstance(one.get(name), float)])
        values = values[np.isfinite(values)]
        if len(values) > resamples / 2:
            intervals[name] = [float(end) for end in np.quantile(values, ends)]
    return intervals
