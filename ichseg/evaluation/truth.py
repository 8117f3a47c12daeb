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
from ichseg.data.datalist import patient_name
from ichseg.errors import IchsegError
from ichseg.io import find_nifti, header_doubts, read_mask, read_volume, scan_name, slice_axis, spacing_mm
from ichseg.io.folder import PROBABILITY_POSTFIX, is_probability
from ichseg.io.geometry import NO_ORIENTATION, is_unit
from ichseg.io.lay import has_lost, laid_on
from ichseg.metrics.measures import voxel_ml

logger = logging.getLogger(__name__)
PREDICTION_ENDINGS = ("_ich", "_pseudo", "")
SAME_SIZE = 1.02  # times: voxels of one scan differ by rounding only
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

    @property
    def patient(self) -> str:
        """Whose scan it is; the case, where nothing says."""
        return patient_name({"case": self.case, **(self.entry or {})})


@dataclass
class Compared:
    """Masks of one scan, slices first; ``probability`` if there is a ``<stem>_probability.nii.gz`` next to the mask.

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
            whose slices are labeled negative. Or a folder of masks ``<name>.nii.gz`` (``_mask``, ``_label``, ``_seg``,
            ``_gt`` or ``_ich`` at the end of a name is ignored).
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
    for file in find_nifti(truth):  # corrected masks may still say in their headers who made them
        if is_probability(file):
            continue
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

    Masks stored with turned or mirrored axes are laid on the scan (or on the truth) if they then fill the same space.
    A file that has lost its affine is compared as stored, and gives no spacing. Where files disagree on the size of a
    voxel, most of them decide, or else the truth.

    Raises:
        IchsegError: shapes differ, or the axes are turned and the places do not fit. (Where the affines differ
            otherwise, a warning is logged.)
    """
    volume = None if scan.image is None else read_volume(scan.image)
    # What indices of slices refer to comes first: the scan, then the truth.
    grids: dict[str, _Grid] = {}
    if volume is not None:
        grids[str(scan.image)] = _Grid(volume.array, volume.affine, NO_ORIENTATION in volume.flags)
    for name in [scan.label, prediction] if scan.label is not None else [prediction]:
        grids[str(name)] = _Grid(*read_mask(name), NO_ORIENTATION in header_doubts(name))
    affine = next((g.affine for g in grids.values() if not g.lost), None)
    if affine is None:
        affine = next((g.affine for g in grids.values() if not is_unit(g.affine)), next(iter(grids.values())).affine)
    if unknown := is_unit(affine):
        logger.warning("%s: no file of this scan has an affine; no milliliters, no millimeters", prediction)
    known = {name: grid for name, grid in grids.items() if not grid.lost}
    agreed = _most_agreed(known, str(scan.label), str(prediction))
    measuring = affine if agreed is None else agreed
    first = next(iter(grids))
    laid = {name: laid_on(g.array, g.affine, affine, name, first, g.lost) for name, g in grids.items()}
    found = laid[str(prediction)]
    truth = np.zeros(found.shape, np.int16) if scan.label is None else laid[str(scan.label)]
    for name, array in laid.items():
        if array.shape != found.shape:
            raise IchsegError(f"{prediction}: shape {found.shape}, but {name} has {array.shape}")
    probability = probability_beside(prediction, found.shape, affine)
    axis = slice_axis(affine)
    chosen = list(range(found.shape[axis])) if scan.slices is None else list(scan.slices)
    if max(chosen, default=0) >= found.shape[axis]:
        raise IchsegError(f"case {scan.case}: 'label_slices' goes beyond the {found.shape[axis]} slices of the mask")
    same_axes = np.array_equal(io_orientation(measuring), io_orientation(affine))
    spacing = spacing_mm(measuring if same_axes else affine)
    in_plane = [s for i, s in enumerate(spacing) if i != axis]

    def taken(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, axis, 0)[chosen]

    return Compared(
        truth=taken(truth) > 0,
        prediction=taken(found) > 0,
        hounsfield=None if volume is None else taken(laid[str(scan.image)]),
        spacing=(float(spacing[axis]), float(in_plane[0]), float(in_plane[1])),
        whole=len(chosen) == found.shape[axis],
        probability=None if probability is None else taken(probability),
        voxel_ml=float("nan") if unknown else voxel_ml(measuring),
    )


@dataclass
class _Grid:
    """Voxels of one file, where they lie, and whether its header says so."""

    array: np.ndarray
    affine: np.ndarray
    no_code: bool = False

    @property
    def lost(self) -> bool:
        return self.no_code or has_lost(self.affine)


def _most_agreed(grids: dict[str, _Grid], label: str, prediction: str) -> np.ndarray | None:
    """Of some files, the affine on whose voxel size most agree, and the truth's where none does; None of no file."""
    sizes = {name: voxel_ml(grid.affine) for name, grid in grids.items()}
    if not sizes:
        return None
    agreeing = {n: sum(max(a, b) < SAME_SIZE * min(a, b) for b in sizes.values()) for n, a in sizes.items()}
    chosen = max(sizes, key=lambda name: (agreeing[name], name == label))
    if agreeing[chosen] < len(sizes):
        logger.warning("%s: voxel sizes differ between the files; that of %s is used", prediction, chosen)
    return grids[chosen].affine


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
