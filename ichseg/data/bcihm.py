"""BCIHM (PhysioNet ct-ich): slice JPEGs (v1.0.0) or NIfTI scans (1.2 and later) -> an ichseg data folder.

Hssayeni et al., Data 2020, 5(1), 14; doi 10.13026/4nae-zg36.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import assign_folds
from ichseg.data.manifest import load_manifest
from ichseg.errors import IchsegError
from ichseg.io import read_volume, staged_folder, write_volume
from ichseg.io.lay import read_mask_of
from ichseg.io.volume import SPACING_UNKNOWN

COLUMNS = {
    "Epidural": "EDH",
    "Intraparenchymal": "IPH",
    "Intraventricular": "IVH",
    "Subarachnoid": "SAH",
    "Subdural": "SDH",
}
SLICE_THICKNESS_MM = 5.0
# The JPEGs hold 644 px for 512 px of CT grid, so one of their pixels is this share of a CT pixel.
CT_PIXELS_PER_JPEG_PIXEL = 0.795
# Median of the known spacings; used, and said to be nominal, where the spacing is unknown.
NOMINAL_IN_PLANE_MM = 0.335
# Of the gray levels: window level 40 width 120 was burnt in.
HOUNSFIELD = np.rint(np.arange(256) / 255.0 * 120.0 - 20.0).astype(np.int16)

Rows = dict[str, list[dict[str, Any]]]
Progress = Callable[[Iterable[str]], Iterable[str]]


def prepare_bcihm(
    source: str | Path,
    output: str | Path,
    masks: str | Path | None = None,
    spacing: str | Path | None = None,
    progress: Progress = iter,
    warn: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Convert a BCIHM release into ``images/``, ``labels/``, ``slice_labels.csv`` and ``datalist.json``.

    Args:
        source: the unpacked release.
        output: a new or empty folder; it appears only when everything has been converted.
        masks: folder of extra slice masks ``NNN_S.png`` (v1.0.0 layout only).
        spacing: CSV with columns ``patient, in_plane_mm_of_512_grid`` (v1.0.0 layout only); taken from
            ``source/pixel_spacing.csv`` where that exists.
        progress: wraps the iteration over patients, e.g. in a progress bar.
        warn: told, one line each, of files that are left out.

    Returns:
        counts: volumes, slices, positive slices, volumes with masks.

    Raises:
        IchsegError: a file is missing or unreadable; the message names it. Nothing is left behind.
    """
    source, output = Path(source), Path(output)
    if (source / "Patients_CT").is_dir():
        convert: _JpegRelease | _NiftiRelease = _JpegRelease(source, masks, spacing)
    elif (source / "ct_scans").is_dir():
        for given, option in ((masks, "masks"), (spacing, "spacing")):
            if given:
                raise IchsegError(
                    f"{given}: {option} can be added to version 1.0.0 only; the scans in {source} have theirs"
                )
        convert = _NiftiRelease(source)
    else:
        raise IchsegError(f"{source}: neither Patients_CT (v1.0.0) nor ct_scans (1.2 and later) is in this folder")
    for line in convert.check():
        warn(line)
    scans = []
    with staged_folder(output) as staged:
        for patient in progress(sorted(convert.rows)):
            scans.append(convert.patient(patient, staged))
        _add_folds(scans, convert.rows)
        counts = {
            "volumes": len(scans),
            "slices": sum(len(r) for r in convert.rows.values()),
            "positive_slices": sum(s["hemorrhage"] for r in convert.rows.values() for s in r),
            "volumes_with_masks": sum("label" in scan for scan in scans),
        }
        write_datalist(staged, "BCIHM", scans, license="CC BY 4.0", doi="10.13026/4nae-zg36", counts=counts)
    return counts


class _JpegRelease:
    """v1.0.0: ``Patients_CT/NNN/brain/S.jpg``, optional ``S_HGE_Seg.jpg``, ``hemorrhage_diagnosis.csv``."""

    def __init__(self, source: Path, masks: str | Path | None, spacing: str | Path | None) -> None:
        self.source = source
        self.masks = Path(masks) if masks else None
        self.rows = _read_rows(source / "hemorrhage_diagnosis.csv")
        default = source / "pixel_spacing.csv"
        self.spacing = _read_spacing(Path(spacing) if spacing else default) if spacing or default.is_file() else {}

    def slices(self, patient: str) -> Path:
        return self.source / "Patients_CT" / patient / "brain"

    def mask_file(self, patient: str, number: int) -> Path | None:
        candidates = [self.slices(patient) / f"{number}_HGE_Seg.jpg"]
        if self.masks:
            candidates.append(self.masks / f"{patient}_{number}.png")
        return next((c for c in candidates if c.is_file()), None)

    def check(self) -> list[str]:
        """Every missing file is an error, every file without a row a warning."""
        missing, extra = [], []
        for patient, rows in sorted(self.rows.items()):
            expected = {f"{row['slice_number']}.jpg" for row in rows}
            missing += [
                self.slices(patient) / name for name in sorted(expected) if not (self.slices(patient) / name).is_file()
            ]
            if self.slices(patient).is_dir():
                found = {p.name for p in self.slices(patient).iterdir() if p.suffix == ".jpg"}
                known = expected | {name.replace(".jpg", "_HGE_Seg.jpg") for name in expected}
                extra += [self.slices(patient) / name for name in sorted(found - known)]
        extra += [p for p in sorted((self.source / "Patients_CT").iterdir()) if p.is_dir() and p.name not in self.rows]
        _stop_if_missing(missing)
        return [f"{path}: no row in hemorrhage_diagnosis.csv; skipped" for path in extra]

    def patient(self, patient: str, output: Path) -> dict[str, Any]:
        rows = self.rows[patient]
        files = [self.slices(patient) / f"{row['slice_number']}.jpg" for row in rows]
        grey = _read_stack(files)
        known = patient in self.spacing
        in_plane = self.spacing.get(patient, NOMINAL_IN_PLANE_MM)
        # Image left is the patient's right and image top is anterior: columns run to the left, rows to the
        # back, so both in-plane axes run against RAS. Slice 1 is the lowest.
        affine = np.diag([-in_plane, -in_plane, SLICE_THICKNESS_MM, 1.0])
        note = "" if known else SPACING_UNKNOWN
        hounsfield = HOUNSFIELD[grey.T].T  # voxels stay in the order of the file
        write_volume(output / "images" / f"{patient}.nii.gz", hounsfield, affine, note)
        scan: dict[str, Any] = {
            "case": patient,
            "patient": patient,
            "image": f"images/{patient}.nii.gz",
            "spacing_mm": [in_plane, in_plane, SLICE_THICKNESS_MM] if known else "unknown",
            "slices": rows,
        }
        masks = {i: self.mask_file(patient, row["slice_number"]) for i, row in enumerate(rows)}
        if any(masks.values()):
            label = np.zeros(hounsfield.shape, np.uint8)
            for index, file in masks.items():
                if file is not None:
                    label[..., index] = _mask_slice(file, label.shape[:2])
            write_volume(output / "labels" / f"{patient}.nii.gz", label, affine, note)
            scan["label"] = f"labels/{patient}.nii.gz"
            # A negative slice is known to be empty; a positive one without a mask is not annotated.
            scan["label_slices"] = [i for i, row in enumerate(rows) if masks[i] is not None or not row["hemorrhage"]]
        return scan


class _NiftiRelease:
    """1.2 and later: ``ct_scans/NNN.nii``, ``masks/NNN.nii``, ``hemorrhage_diagnosis_raw_ct.csv``."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.rows = _read_rows(source / "hemorrhage_diagnosis_raw_ct.csv")

    def check(self) -> list[str]:
        folders = ("ct_scans", "masks") if (self.source / "masks").is_dir() else ("ct_scans",)
        names = {f"{patient}.nii" for patient in self.rows}
        _stop_if_missing(
            [self.source / f / n for f in folders for n in sorted(names) if not (self.source / f / n).is_file()]
        )
        extra = [p for f in folders for p in sorted((self.source / f).glob("*.nii")) if p.name not in names]
        return [f"{path}: no row in hemorrhage_diagnosis_raw_ct.csv; skipped" for path in extra]

    def patient(self, patient: str, output: Path) -> dict[str, Any]:
        rows = self.rows[patient]
        file = self.source / "ct_scans" / f"{patient}.nii"
        volume = read_volume(file)
        if volume.array.shape[2] != len(rows):
            raise IchsegError(
                f"{file}: {volume.array.shape[2]} slices, but the table has {len(rows)} rows for patient {patient}"
            )
        hounsfield = np.rint(np.clip(volume.array, -32768, 32767)).astype(np.int16)
        write_volume(output / "images" / f"{patient}.nii.gz", hounsfield, volume.affine)
        scan: dict[str, Any] = {
            "case": patient,
            "patient": patient,
            "image": f"images/{patient}.nii.gz",
            "slices": rows,
        }
        mask_file = self.source / "masks" / f"{patient}.nii"
        if mask_file.is_file():
            mask = read_mask_of(mask_file, file)
            if mask.shape != hounsfield.shape:
                raise IchsegError(f"{mask_file}: shape {mask.shape} differs from the scan's {hounsfield.shape}")
            write_volume(output / "labels" / f"{patient}.nii.gz", (mask > 0).astype(np.uint8), volume.affine)
            scan["label"] = f"labels/{patient}.nii.gz"
            scan["label_slices"] = list(range(len(rows)))
        return scan


def _read_rows(path: Path) -> Rows:
    """The diagnosis table -> per patient, its slices in scan order."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = list(csv.DictReader(file))
    except FileNotFoundError:
        raise IchsegError(f"{path}: file not found") from None
    rows: Rows = {}
    for line, row in enumerate(table, start=2):
        try:
            patient, number = f"{int(row['PatientNumber']):03d}", int(row["SliceNumber"])
            subtypes = {short: int(row[name]) for name, short in COLUMNS.items()}
        except (KeyError, TypeError, ValueError):
            raise IchsegError(f"{path}: line {line}: missing PatientNumber, SliceNumber or a subtype") from None
        rows.setdefault(patient, []).append(
            {"slice_number": number, "hemorrhage": int(any(subtypes.values())), **subtypes}
        )
    if not rows:
        raise IchsegError(f"{path}: the table is empty")
    for patient, slices in rows.items():
        slices.sort(key=lambda s: s["slice_number"])
        numbers = [s["slice_number"] for s in slices]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise IchsegError(f"{path}: the slice numbers of patient {patient} have gaps or duplicates")
    return rows


def _read_spacing(path: Path) -> dict[str, float]:
    """Patient -> in-plane mm of one JPEG pixel."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {
                f"{int(row['patient']):03d}": float(row["in_plane_mm_of_512_grid"]) * CT_PIXELS_PER_JPEG_PIXEL
                for row in csv.DictReader(file)
            }
    except FileNotFoundError:
        raise IchsegError(f"{path}: spacing table not found") from None
    except (KeyError, TypeError, ValueError):
        raise IchsegError(f"{path}: requires numeric columns patient and in_plane_mm_of_512_grid") from None


def _read_grey(path: Path) -> np.ndarray:
    """(column, row) uint8 grey levels of an 8-bit picture."""
    import SimpleITK as sitk  # 95 MiB, and only these pictures need it

    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))  # (row, column[, channel])
    except RuntimeError:
        raise IchsegError(f"{path}: not a readable image") from None
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[..., 0]
    if array.ndim != 2 or array.dtype != np.uint8:
        raise IchsegError(f"{path}: expected one 8-bit gray image, found shape {array.shape} of {array.dtype}")
    return array.T


def _read_stack(files: list[Path]) -> np.ndarray:
    """(column, row, slice) uint8 gray levels of pictures of one size, slice by slice in memory."""
    pictures = [_read_grey(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise IchsegError(f"{file}: size {picture.shape} differs from the first slice, {pictures[0].shape}")
    return np.stack([picture.T for picture in pictures]).T


def _mask_slice(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    mask = _read_grey(path) > 127
    if mask.shape != shape:
        raise IchsegError(f"{path}: size {mask.shape} differs from the scan's slices, {shape}")
    return mask


def _stop_if_missing(missing: list[Path]) -> None:
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise IchsegError(f"{missing[0]}: file not found{more}, but listed in the table")


def _add_folds(scans: list[dict[str, Any]], rows: Rows) -> None:
    known: dict[str, int] = load_manifest("bcihm")["folds"]["patients"]
    if not set(rows) <= set(known):
        known = assign_folds({p: (len(s), sum(r["hemorrhage"] for r in s)) for p, s in rows.items()})
    for scan in scans:
        scan["fold"] = known[scan["patient"]]
