"""MBH-Seg 2025: scans of BHSD and more, outlined by several raters -> an ichseg data folder.

One folder per scan, ``<patient>_<study>/image.nii.gz`` and ``label_annot_<rater>.nii.gz``, with the subtypes' codes of
BHSD. Raters differ; which voxels count is a choice.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.data.masked_release import converted_scan
from ichseg.data.subtypes import SUBTYPES
from ichseg.defaults import FOLD_TOLERANCE, RATER_RULES
from ichseg.errors import IchsegError
from ichseg.io import staged_folder
from ichseg.io.lay import read_mask_of

NAME, IMAGE = "MBH-Seg 2025", "image.nii.gz"
RATER = re.compile(r"label_annot_(\d+)\.nii\.gz")


def prepare_mbh_seg(
    source: str | Path,
    output: str | Path,
    raters: str = RATER_RULES[0],
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, Any]:
    """Convert the scans with voxel labels into ``images/``, ``labels/``, ``slice_labels.csv``, ``datalist.json``.

    Args:
        source: folder of the scans' folders, such as ``MBH_Train_2025_voxel-label``.
        output: a new or empty folder; it appears only when everything has been converted.
        raters: which voxels are hemorrhage: ``"majority"`` of a scan's raters (of two, both), ``"any"`` of them, or a
            rater's number. The subtype is the one that most of those who see hemorrhage say; the lower code if as many.
        progress: wraps the iteration over scans.
        warn: told, one line each, of what was noticed, such as scans that a chosen rater did not outline.
        fold_tolerance: see :func:`ichseg.data.assign_folds` (decision D3).

    Returns:
        counts: volumes, slices, positive slices, patients, and ``raters_dice``, the mean Dice of hemorrhage between
        two raters of a scan, over pairs that are not both empty.

    Raises:
        IchsegError: another layout, or a file that cannot be read; the message names it. Nothing is left behind.
    """
    source, output = Path(source), Path(output)
    if raters not in RATER_RULES and not raters.isdigit():
        raise IchsegError(f"raters must be {', '.join(RATER_RULES)} or a rater's number, not '{raters}'")
    folders = sorted(folder for folder in source.iterdir() if folder.is_dir()) if source.is_dir() else []
    if not folders:
        raise IchsegError(f"{source}: no folder per scan in here, as {NAME} has them")
    scans: list[dict[str, Any]] = []
    agreement: list[float] = []
    with staged_folder(output) as staged:
        for folder in progress(folders):
            masks = _masks(folder)
            known = [mask > 0 for mask in masks.values()]
            pairs = [(a, b) for a, b in itertools.combinations(known, 2) if a.any() or b.any()]
            agreement += [2 * float((a & b).sum()) / float(a.sum() + b.sum()) for a, b in pairs]
            if raters.isdigit() and int(raters) not in masks:
                warn(f"{folder}: not outlined by rater {raters}; left out")
                continue
            chosen = masks[int(raters)] if raters.isdigit() else agreed(list(masks.values()), raters)
            scan = converted_scan(folder.name, folder / IMAGE, folder, chosen, SUBTYPES, NAME, staged, None, warn)
            scans.append({**scan, "patient": "_".join(folder.name.split("_")[:2]), "raters": len(masks)})
        if not scans:
            raise IchsegError(f"{source}: no scan is outlined by rater {raters}")
        counts: dict[str, Any] = {**fold_scans(scans, fold_tolerance, warn)}
        if agreement:
            counts["raters_dice"] = round(float(np.mean(agreement)), 3)
        write_datalist(staged, NAME, scans, license="by agreement with the organizers", raters=raters, counts=counts)
    return counts


def agreed(masks: Sequence[np.ndarray], rule: str) -> np.ndarray:
    """Masks of several raters with codes of subtypes -> one.

    Args:
        masks: of one shape.
        rule: ``"majority"``: more than half of the raters see hemorrhage; ``"any"``: one does.
    """
    seen = np.sum([mask > 0 for mask in masks], axis=0)
    votes = np.stack([np.sum([mask == code for mask in masks], axis=0) for code in SUBTYPES])
    code = np.array(list(SUBTYPES))[votes.argmax(axis=0)]
    return np.where(2 * seen > len(masks) if rule == "majority" else seen > 0, code, 0).astype(np.uint8)


def _masks(folder: Path) -> dict[int, np.ndarray]:
    """Rater -> mask."""
    if not (folder / IMAGE).is_file():
        raise IchsegError(f"{folder / IMAGE}: file not found; {NAME} has {IMAGE} and label_annot_N.nii.gz in a folder")
    found = {int(match[1]): file for file in sorted(folder.iterdir()) if (match := RATER.fullmatch(file.name))}
    if not found:
        raise IchsegError(f"{folder}: no label_annot_N.nii.gz; scans with case labels alone cannot be converted")
    masks = {rater: read_mask_of(file, folder / IMAGE) for rater, file in found.items()}
    first = next(iter(masks))
    for rater, mask in masks.items():
        if unknown := sorted(set(np.unique(mask).tolist()) - {0, *SUBTYPES}):
            raise IchsegError(f"{found[rater]}: unknown mask codes {unknown}; {NAME} has 0 to {max(SUBTYPES)}")
        if mask.shape != masks[first].shape:
            raise IchsegError(
                f"{found[rater]}: shape {mask.shape} differs from {masks[first].shape} of another rater's"
            )
    return masks
