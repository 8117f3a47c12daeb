"""The same slices under every method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ichseg.comparison.bench import Bench
from ichseg.data import load_datalist
from ichseg.evaluation.truth import prediction_file
from ichseg.io import read_mask, read_volume, scan_name
from ichseg.report.gallery import to_the_back
from ichseg.report.montage import labeled, montage, slice_picture

ROWS, SIZE = 6, 160


def slices_picture(bench: Bench, masks: Mapping[str, Path], path: Path) -> bool:
    """Held-out slices with hemorrhage in rows, one column per method; the first column has the true mask alone.

    The middle positive slice of each scan, spread over the scans; scans with true masks first.

    Args:
        bench: whose held-out scans.
        masks: method -> folder.
        path: PNG to write.

    Returns:
        False if no held-out slice is labeled positive.
    """
    scans = [s for s in load_datalist(bench.plan.datalist, bench.plan.held_out) if any(s["slice_labels"])]
    known = [s for s in scans if "label" in s] or scans
    chosen = [known[i] for i in sorted({round(i) for i in np.linspace(0, len(known) - 1, ROWS)})] if known else []
    rows = []
    for scan in chosen:
        positive = np.flatnonzero(scan["slice_labels"])
        index = int(positive[len(positive) // 2])
        volume = read_volume(scan["image"])
        hounsfield, upward = to_the_back(volume.array, volume.affine)
        place = index if upward else hounsfield.shape[2] - 1 - index
        truth = to_the_back(*read_mask(scan["label"]))[0][..., place] if "label" in scan else None
        pictures = [labeled(slice_picture(hounsfield[..., place], None, truth, size=SIZE), "truth")]
        for name, folder in masks.items():
            file = prediction_file(folder, scan_name(scan["image"]), scan["case"])
            mask = to_the_back(*read_mask(file))[0][..., place]
            pictures.append(labeled(slice_picture(hounsfield[..., place], mask, truth, size=SIZE), name))
        rows.append((f"{scan['case']}, slice {index + 1}", pictures))
    if rows:
        montage(rows, path)
    return bool(rows)
