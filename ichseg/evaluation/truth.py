"""Where the true masks are: in a datalist, or in a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from ichseg.data import load_masked
from ichseg.errors import IchsegError
from ichseg.io import find_scans, read_mask, read_volume, scan_name, slice_axis, spacing_mm
from ichseg.io.folder import PROBABILITY_POSTFIX
from ichseg.io.geometry import same_grid, turned
from ichseg.metrics.measures import voxel_ml

logger = logging.getLogger(__name__)
PREDICTION_ENDINGS = ("_ich", "_pseudo", "")
FEW_CASES = 20  # that a message names
TRUTH_ENDINGS = ("_mask", "_label", "_seg", "_gt", "_ich")


class NoPrediction(IchsegError):
    """A scan has no mask."""


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
    """Masks of one scan, slices first; ``probability`` if there is a ``<stem>_probability.nii.gz`` beside the mask.

    ``voxel_ml`` is NaN where no file of the scan says how large a voxel is.
    """

    truth: np.ndarray
    prediction: np.ndarray
    hounsfield: np.ndarray | None
    spacing: tuple[float, float, float]
    whole: bool
    voxel_ml: float
    probability: np.ndarray | None = None


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
        raise IchsegError(f"{truth}: a folder of masks has no folds; use a datalist")
    root = Path(truth)
    found: list[TrueScan] = []
    for file in find_scans(truth):
        stem = str(file.relative_to(root).with_name(_shortened(scan_name(file))))
        if cases is not None and stem not in cases:
            continue
        image = None if images is None else next((str(f) for f in _named(Path(images), stem)), None)
        if images is not None and image is None:
            raise IchsegError(f"{images}: no scan {stem}.nii.gz for the mask {file}")
        if (twin := next((f for f in found if f.stem == stem), None)) is not None:
            raise IchsegError(f"{file}: the same case as {twin.label}; keep only one of them")
        found.append(TrueScan(case=stem, stem=stem, image=image, label=str(file)))
    for case in cases or []:
        if all(scan.case != case for scan in found):
            raise IchsegError(f"{truth}: no mask for case {case}")
    return found


def prediction_file(folder: str | Path, stem: str, case: str | None = None) -> Path:
    """The mask of a scan in a folder of predictions.

    Raises:
        IchsegError: there is none.
    """
    if not Path(folder).is_dir():
        raise IchsegError(f"{folder}: no such folder")
    for ending in PREDICTION_ENDINGS:
        for file in _named(Path(folder), stem + ending):
            return file
    raise NoPrediction(f"{Path(folder) / stem}_ich.nii.gz: no prediction for case {case or stem}")


def prediction_files(folder: str | Path, scans: Sequence[tuple[str, str]]) -> list[Path]:
    """The masks of all scans, (stem, case) each, found before any is read.

    Raises:
        IchsegError: some have none; the message says how many, and how to leave them out.
    """
    found: dict[str, Path] = {}
    for stem, case in scans:
        with contextlib.suppress(NoPrediction):
            found[case] = prediction_file(folder, stem, case)
    lacking = [case for _, case in scans if case not in found]
    if not lacking:
        return list(found.values())
    if not found:
        raise IchsegError(f"{Path(folder) / scans[0][0]}_ich.nii.gz: no prediction for case {lacking[0]}, nor for any "
                          f"other of {len(scans)} scans")  # fmt: skip
    named = " ".join(list(found)[:FEW_CASES]) + (" ..." if len(found) > FEW_CASES else "")
    raise IchsegError(
        f"{folder}: no prediction for {len(lacking)} of {len(scans)} scans, such as {lacking[0]}; to evaluate the "
        f"others alone, add --cases {named}"
    )


def compare(scan: TrueScan, prediction: str | Path) -> Compared:
    """Read the masks of a scan, and the scan if there is one; only the annotated slices, slices first.

    A prediction stored with turned or mirrored axes is turned back if it then fills the same space. A file that has
    lost its affine is compared as stored. Spacing and volumes are those of the truth, or of the scan or the prediction
    where the truth has lost its affine.

    Raises:
        IchsegError: shapes differ, or the axes are turned and the places do not fit. (Where the affines differ
            otherwise, a warning is logged.)
    """
    volume = None if scan.image is None else read_volume(scan.image)
    found, found_affine = read_mask(prediction)
    grids = {}
    if scan.label is not None:
        truth, truth_affine = read_mask(scan.label)
        grids[str(scan.label)] = (truth.shape, truth_affine)
    if volume is not None:
        grids[str(scan.image)] = (volume.array.shape, volume.affine)
    affines = [*(a for _, a in grids.values()), found_affine]
    affine = next((a for a in affines if not _lost(a)), None)
    if affine is None:
        affine = next((a for a in affines if not _unit(a)), affines[0])
    if unknown := _unit(affine):
        logger.warning("%s: no file of this scan has an affine; no milliliters, no millimeters", prediction)
    found = laid_on(found, found_affine, affine, prediction, next(iter(grids), ""))
    if scan.label is None:
        truth = np.zeros(found.shape, np.int16)
    for name, (shape, other) in grids.items():
        if shape != found.shape:
            raise IchsegError(f"{prediction}: shape {found.shape}, but {name} has {shape}")
        if not np.allclose(affine, other, atol=0.1):
            lost = " has lost its affine" if _lost(other) else ": affine differs from the other files'"
            logger.warning("%s%s; compared voxel by voxel, as stored", name, lost)
    probability = probability_beside(prediction, found.shape, affine)
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
        probability=None if probability is None else taken(probability),
        voxel_ml=float("nan") if unknown else voxel_ml(affine),
    )


def laid_on(mask: np.ndarray, affine: np.ndarray, wanted: np.ndarray, name: str | Path, other: str) -> np.ndarray:
    """The mask with its axes in the order and direction of another grid, or as stored where an affine is lost."""
    laid, laid_affine = turned(mask, affine, wanted)
    if np.array_equal(io_orientation(affine), io_orientation(wanted)):
        if not np.allclose(affine, wanted, atol=0.1):
            lost = " has lost its affine" if _lost(affine) else f": affine differs from {other}"
            logger.warning("%s%s; compared voxel by voxel, as stored", name, lost)
        return mask
    if same_grid(laid.shape, laid_affine, laid.shape, wanted):
        return laid
    if _lost(affine) or _lost(wanted):
        logger.warning("%s and %s: one of them has lost its affine; compared voxel by voxel, as stored", name, other)
        return mask
    raise IchsegError(f"{name}: its axes are turned against those of {other}, and it does not fill the same space")


def _lost(affine: np.ndarray) -> bool:
    """True for the affine of an array that was saved without that of its scan: no place, axes as they come."""
    return bool(np.allclose(affine, np.diag(np.diag(affine)), atol=1e-4)) and (_unit(affine) or affine[0, 0] > 0)


def _unit(affine: np.ndarray) -> bool:
    """True for voxels of 1 mm at the origin, axes in any direction."""
    return bool(np.allclose(np.abs(affine), np.eye(4), atol=1e-4))


def probability_beside(prediction: str | Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray | None:
    """What ``<stem>_probability.nii.gz`` beside a mask holds, turned to the mask's axes; None if it is not there.

    Args:
        prediction: the mask's file.
        shape, affine: of the grid that is wanted.

    Raises:
        IchsegError: it holds no probabilities, or has another shape.
    """
    for file in _named(Path(prediction).parent, _shortened(scan_name(prediction)) + PROBABILITY_POSTFIX):
        values = read_volume(file)
        low, high = float(values.array.min()), float(values.array.max())
        if low < 0 or high > 1:
            raise IchsegError(f"{file}: values from {low:g} to {high:g} are not probabilities")
        probability = laid_on(values.array, values.affine, affine, file, str(prediction))
        if probability.shape != shape:
            raise IchsegError(f"{file}: shape {probability.shape}, but the mask has {shape}")
        return probability
    return None


def _named(folder: Path, stem: str) -> list[Path]:
    return [file for suffix in (".nii.gz", ".nii") if (file := folder / f"{stem}{suffix}").is_file()]


def _shortened(name: str) -> str:
    for ending in TRUTH_ENDINGS:
        if name.endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name
