"""Where the true masks are: in a datalist, or in a folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data import load_masked
from ichseg.errors import IchsegError
from ichseg.io import find_scans, read_mask, read_volume, scan_name, slice_axis, spacing_mm

logger = logging.getLogger(__name__)
PREDICTION_ENDINGS = ("_ich", "_pseudo", "")
TRUTH_ENDINGS = ("_mask", "_label", "_seg", "_gt", "_ich")


@dataclass
class TrueScan:
    """One scan whose truth is known, at least in part.

    Attributes:
        case: its name.
        stem: of its files, with subfolders: predictions are called ``<stem>_ich.nii.gz``.
        image: the scan, if known.
        label: the mask; None if every slice is known to be empty.
        slices: indices of the annotated slices; None for all.
        entry: the datalist's entry, if there is one.
    """

    case: str
    stem: str
    image: str | None
    label: str | None
    slices: list[int] | None = None
    entry: dict[str, Any] | None = None


@dataclass
class Compared:
    """Masks of one scan, slices first."""

    truth: np.ndarray
    prediction: np.ndarray
    hounsfield: np.ndarray | None
    spacing: tuple[float, float, float]
    whole: bool
    voxel_ml: float


def true_scans(
    truth: str | Path,
    folds: str | Sequence[int] | None = None,
    cases: Sequence[str] | None = None,
    images: str | Path | None = None,
) -> list[TrueScan]:
    """List the scans of a datalist, or of a folder of NIfTI masks, whose truth is known.

    Args:
        truth: ``datalist.json``: scans with a mask (only slices in ``label_slices`` if it says which), and scans all of
            whose slices are labeled negative. Or a folder of masks ``<name>.nii.gz`` (``_mask``, ``_label``, ``_seg``
            or ``_gt`` at the end of a name is passed over).
        folds: of the datalist, e.g. ``"3-4"``.
        cases: keep only these.
        images: with a folder of masks: folder of the scans ``<name>.nii.gz``.

    Raises:
        IchsegError: nothing is there, or folds are asked of a folder.
    """
    if not Path(truth).is_dir():
        return [
            TrueScan(
                case=scan["case"],
                stem=scan_name(scan["image"]),
                image=scan["image"],
                label=scan.get("label"),
                slices=scan.get("label_slices"),
                entry=scan,
            )
            for scan in load_masked(truth, folds, supervision="masks", cases=cases)
        ]
    if folds is not None:
        raise IchsegError(f"{truth}: a folder of masks has no folds; give a datalist")
    root, found = Path(truth), []
    for file in find_scans(truth):
        stem = str(file.relative_to(root).with_name(_shortened(scan_name(file))))
        if cases is not None and stem not in cases:
            continue
        image = None if images is None else next((str(f) for f in _named(Path(images), stem)), None)
        if images is not None and image is None:
            raise IchsegError(f"{images}: no scan {stem}.nii.gz for the mask {file}")
        found.append(TrueScan(case=stem, stem=stem, image=image, label=str(file)))
    if not found:
        raise IchsegError(f"{truth}: no mask of case(s) {', '.join(cases or [])}")
    return found


def prediction_file(folder: str | Path, stem: str, case: str | None = None) -> Path:
    """The mask of a scan in a folder of predictions.

    Raises:
        IchsegError: there is none.
    """
    for ending in PREDICTION_ENDINGS:
        for file in _named(Path(folder), stem + ending):
            return file
    raise IchsegError(f"{Path(folder) / stem}_ich.nii.gz: no prediction for case {case or stem}")


def compare(scan: TrueScan, prediction: str | Path) -> Compared:
    """Read the masks of a scan, and the scan if there is one; only the annotated slices, slices first.

    Raises:
        IchsegError: shapes differ. (Where only the affines differ, a warning is logged.)
    """
    found, affine = read_mask(prediction)
    volume = None if scan.image is None else read_volume(scan.image)
    if scan.label is not None:
        truth, true_affine = read_mask(scan.label)
    else:
        truth, true_affine = np.zeros(found.shape, np.int16), affine
    grids = {"truth": (truth.shape, true_affine)}
    if volume is not None:
        grids["scan"] = (volume.array.shape, volume.affine)
    for name, (shape, other) in grids.items():
        if shape != found.shape:
            raise IchsegError(f"case {scan.case}: prediction {found.shape} and {name} {shape} differ in shape")
        if not np.allclose(affine, other, atol=0.1):
            logger.warning("case %s: affines of prediction and %s differ; compared voxel by voxel", scan.case, name)
    axis = slice_axis(affine)
    chosen = list(range(found.shape[axis])) if scan.slices is None else list(scan.slices)
    spacing = spacing_mm(affine)
    in_plane = [s for i, s in enumerate(spacing) if i != axis]

    def taken(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, axis, 0)[chosen]

    return Compared(
        truth=taken(truth) > 0,
        prediction=taken(found) > 0,
        hounsfield=None if volume is None else taken(volume.array),
        spacing=(float(spacing[axis]), float(in_plane[0]), float(in_plane[1])),
        whole=len(chosen) == found.shape[axis],
        voxel_ml=abs(float(np.linalg.det(affine[:3, :3]))) / 1000,  # also under gantry tilt
    )


def _named(folder: Path, stem: str) -> list[Path]:
    return [file for suffix in (".nii.gz", ".nii") if (file := folder / f"{stem}{suffix}").is_file()]


def _shortened(name: str) -> str:
    for ending in TRUTH_ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name
