"""Patient folds with equal shares of slices and of positive slices."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ichseg.defaults import FOLD_TOLERANCE
from ichseg.errors import IchsegError

Counts = tuple[int, int]  # (slices, positive slices)


def assign_folds(
    patients: Mapping[str, Counts], folds: int = 5, tolerance: float = FOLD_TOLERANCE, tries: int = 200
) -> dict[str, int]:
    """Give every patient a fold, so that folds hold equal shares of slices and equal positive rates.

    Patients are placed largest first into the fold that is left most even; ties are broken by a seeded
    shuffle, and the most even of several tries is kept, the first within ``tolerance`` ends the search.
    The same patients always get the same folds.

    Args:
        patients: patient -> (slices, positive slices).
        folds: how many folds.
        tolerance: largest accepted difference of a fold's share of slices, or of its positive rate, from
            the even value, as a fraction (decision D3).
        tries: how many shuffles at most.
    """
    names = sorted(patients)
    best: dict[str, int] = {}
    best_error = float("inf")
    for seed in range(tries):
        order = list(names)
        random.Random(seed).shuffle(order)
        order.sort(key=lambda n: (patients[n][1], patients[n][0]), reverse=True)
        slices, positives = [0] * folds, [0] * folds
        chosen: dict[str, int] = {}
        for name in order:
            n, p = patients[name]
            # Positive patients are balanced by positive slices first, the others by slices.
            fold = min(range(folds), key=lambda f: (positives[f] if p else 0, slices[f], (f + seed) % folds))
            chosen[name] = fold
            slices[fold] += n
            positives[fold] += p
        error = unevenness(patients, chosen, folds)
        if error < best_error:
            best, best_error = chosen, error
        if best_error <= tolerance:
            break
    return best


def unevenness(patients: Mapping[str, Counts], chosen: Mapping[str, int], folds: int = 5) -> float:
    """Largest difference of a fold's share of slices, or of its positive rate, from the even value."""
    total = sum(n for n, _ in patients.values()) or 1
    rate = sum(p for _, p in patients.values()) / total
    error = 0.0
    for fold in range(folds):
        slices = sum(n for name, (n, _) in patients.items() if chosen[name] == fold)
        positives = sum(p for name, (_, p) in patients.items() if chosen[name] == fold)
        error = max(error, abs(slices / total - 1 / folds), abs((positives / slices if slices else 0) - rate))
    return error


def fold_scans(
    scans: Sequence[dict[str, Any]], tolerance: float = FOLD_TOLERANCE, warn: Callable[[str], None] = lambda text: None
) -> dict[str, int]:
    """Give every scan the ``fold`` of its patient and return the counts of the data set.

    Args:
        scans: with ``patient`` and ``slices``, one dict with ``hemorrhage`` per slice.
        tolerance: as in :func:`assign_folds`.
        warn: told if no folds within the tolerance were found.

    Returns:
        volumes, slices, positive_slices, patients.
    """
    totals: dict[str, Counts] = {}
    for scan in scans:
        n, p = totals.get(scan["patient"], (0, 0))
        totals[scan["patient"]] = (n + len(scan["slices"]), p + sum(row["hemorrhage"] for row in scan["slices"]))
    folds = assign_folds(totals, tolerance=tolerance)
    error = unevenness(totals, folds)
    if error > tolerance:
        warn(
            f"folds are imbalanced by {100 * error:.0f} percentage points in slice share or positive rate: "
            "too few patients, or patients too different"
        )
    for scan in scans:
        scan["fold"] = folds[scan["patient"]]
    return {
        "volumes": len(scans),
        "slices": sum(n for n, _ in totals.values()),
        "positive_slices": sum(p for _, p in totals.values()),
        "patients": len(totals),
    }


def parse_folds(folds: Sequence[int] | str | int) -> tuple[int, ...]:
    """``"0-2,4"``, ``3`` or ``[0, 1]`` -> a tuple of fold numbers."""
    if isinstance(folds, int):
        return (folds,)
    if not isinstance(folds, str):
        return tuple(int(f) for f in folds)
    chosen: list[int] = []
    for part in folds.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise IchsegError(f"folds '{folds}': write numbers and ranges such as 0-2 or 3,4")
        if int(last or first) < int(first):
            raise IchsegError(f"folds '{folds}': the range {part.strip()} is reversed")
        chosen.extend(range(int(first), int(last or first) + 1))
    return tuple(chosen)
