"""The demo: phantoms through the shipped model, truth beside prediction."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichseg.data import load_datalist
from ichseg.data.phantom import prepare_phantom
from ichseg.errors import IchsegError
from ichseg.io import read_mask, read_volume, scan_name
from ichseg.metrics import dice, hemorrhage_volume
from ichseg.report import montage, slice_picture, telling_slices

PICTURES_PER_SCAN = 5


def run_demo(
    output: Path,
    scans: int,
    seed: int,
    segment: Callable[[Path, Path], None],
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[dict[str, Any]]:
    """Make phantoms, segment them, print true and predicted milliliters and Dice, draw the outlines.

    Args:
        output: folder for ``phantoms/``, ``masks/`` (with ``results.csv``) and ``demo.png``.
        scans: how many phantoms.
        seed: of the phantoms.
        segment: called with the folder of scans and the folder for masks.
        progress: wraps the making of phantoms.

    Returns:
        one row per phantom.
    """
    phantoms, masks = output / "phantoms", output / "masks"
    if not (phantoms / "datalist.json").is_file():
        print(f"drawing {scans} phantoms ...")
        prepare_phantom(phantoms, scans, seed, size=192, slices=20, progress=progress)
    cases = load_datalist(phantoms / "datalist.json")
    drawn = json.loads((phantoms / "datalist.json").read_text(encoding="utf-8")).get("seed")
    if len(cases) != scans or drawn != seed:
        raise IchsegError(
            f"{phantoms}: holds {len(cases)} phantoms of seed {drawn}; remove it or choose another --output"
        )
    segment(phantoms / "images", masks)
    rows, pictures = [], []
    print(f"\n{'scan':14s}{'hemorrhage':>14s}{'true mL':>10s}{'found mL':>10s}{'Dice':>8s}")
    for case in cases:
        volume = read_volume(case["image"])
        truth, affine = read_mask(case["label"])
        found, _ = read_mask(masks / f"{scan_name(case['image'])}_ich.nii.gz")
        row = {
            "case": case["case"],
            "true_ml": hemorrhage_volume(truth, affine)["volume_ml"],
            "found_ml": hemorrhage_volume(found, affine)["volume_ml"],
            "dice": dice(torch.from_numpy(found), torch.from_numpy(truth)),
        }
        rows.append(row)
        kinds = _kinds(truth)
        shown_dice = "-" if np.isnan(row["dice"]) else f"{row['dice']:.2f}"
        print(f"{row['case']:14s}{kinds:>14s}{row['true_ml']:10.1f}{row['found_ml']:10.1f}{shown_dice:>8s}")
        caption = (
            f"{row['case']} ({kinds}): true {row['true_ml']:.1f} mL, found {row['found_ml']:.1f} mL, Dice {shown_dice}"
        )
        chosen = telling_slices(truth, PICTURES_PER_SCAN, found)
        pictures.append((caption, [slice_picture(volume.array[..., i], found[..., i], truth[..., i]) for i in chosen]))
    montage(pictures, output / "demo.png")
    print(f"\nmasks and results.csv: {masks}\npicture: {output / 'demo.png'}")
    print("Phantoms show that the installation works, not how accurate the model is on patients: see the model card.")
    return rows


def _kinds(truth: np.ndarray) -> str:
    from ichseg.data import SUBTYPES

    return "+".join(name for code, name in SUBTYPES.items() if (truth == code).any()) or "none"
