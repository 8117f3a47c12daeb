"""Figures printed in Ma et al. 2025 (doi 10.21037/qims-24-1462), in percent, BHSD first and BCIHM second.

They stand beside ours for reference. They were measured on other scans and with thresholds chosen on the evaluated
masks, so they are no target that a test could assert.
"""

from __future__ import annotations

from collections.abc import Mapping

Pair = tuple[float, float]

# Table 1: mIoU of complete methods. The second word says whether ichseg has the method.
TABLE1: dict[str, Pair] = {
    "U-Net, full supervision": (78.9, 79.6),
    "AffinityNet": (49.3, 49.2),
    "EDAM": (51.6, 51.4),
    "RCA": (53.7, 52.2),
    "AE": (54.7, 53.5),
    "ResNet34+50": (69.8, 68.9),
    "DenseNet121+169": (69.4, 68.1),
    "VGG16+19": (68.6, 67.3),
}

# Table 2: lesion localization, (CL, ML, FPL) on BHSD and on BCIHM.
TABLE2: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "AffinityNet": ((15.4, 84.6, 99.0), (15.9, 84.1, 98.9)),
    "EDAM": ((13.8, 86.2, 90.2), (14.5, 85.5, 89.6)),
    "RCA": ((19.9, 80.1, 71.7), (19.4, 80.6, 69.1)),
    "AE": ((42.2, 57.8, 91.5), (41.8, 58.2, 90.4)),
    "Ours": ((48.1, 51.9, 49.8), (48.9, 51.1, 51.2)),
}

# Table 3: mIoU by input size, without CRF.
TABLE3: dict[int, Pair] = {512: (62.9, 63.3), 384: (62.6, 63.7), 256: (60.2, 61.1)}

# Table 4: the ablation; which switches a row has, see ablation.ROWS. The print lost its ticks: each row's
# switches follow from the differences the text quotes.
TABLE4: dict[str, Pair] = {
    "r1": (52.5, 50.1),
    "r2": (53.1, 50.3),
    "r3": (59.1, 58.3),
    "r4": (60.7, 60.3),
    "r5": (61.8, 61.9),
    "r6": (62.6, 63.7),
    "r7": (63.1, 63.9),
    "r8": (65.1, 64.4),
    "r9": (69.8, 68.9),
}

# The differences the text quotes: (minuend, subtrahend) -> points on BHSD and on BCIHM, what it says they show.
DIFFERENCES: dict[tuple[str, str], tuple[Pair, str]] = {
    ("r5", "r1"): ((9.3, 11.8), "SF-CAM instead of Grad-CAM"),
    ("r2", "r1"): ((0.6, 0.2), "context fusion, compared with the ensemble alone"),
    ("r5", "r3"): ((2.7, 3.6), "ensemble, compared with ResNet34"),
    ("r5", "r4"): ((1.1, 1.6), "ensemble, compared with ResNet50"),
    ("r6", "r5"): ((0.8, 1.8), "context fusion"),
    ("r7", "r6"): ((0.5, 0.2), "layer aggregation"),
    ("r8", "r7"): ((2.0, 0.5), "dense CRF"),
    ("r9", "r8"): ((4.7, 4.5), "U-Net"),
}


def differences(table: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """The differences of :data:`DIFFERENCES` in a table of one value per row."""
    return {(a, b): table[a] - table[b] for a, b in DIFFERENCES}


def wrong_differences() -> list[str]:
    """Where a quoted difference is not that of the printed table; one line each, empty if all 16 agree."""
    wrong = []
    for which, name in enumerate(("BHSD", "BCIHM")):
        found = differences({row: values[which] for row, values in TABLE4.items()})
        for (a, b), value in found.items():
            quoted = DIFFERENCES[a, b][0][which]
            if abs(value - quoted) > 0.051:
                wrong.append(f"{name}: {a} - {b} is {value:.1f} in the table, {quoted} in the text")
    return wrong
