"""A held-out set of real scans with implanted hemorrhage: exact masks where real ones are scarce."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import load_datalist, patient_name, write_datalist
from ichseg.data.subtypes import SUBTYPES
from ichseg.defaults import HELD_OUT_FOLDS, IMPLANT_FAMILIES, IMPLANTS_PER_SCAN
from ichseg.errors import IchsegError
from ichseg.io import SPACING_UNKNOWN, read_volume, slice_axis, spacing_mm, staged_folder, write_volume
from ichseg.synthetic.implants.fields import field_volume
from ichseg.synthetic.implants.implant import implant_volume

TRIES = 30
FAMILIES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray, str] | None]] = {
    "shapes": implant_volume,
    "fields": lambda hounsfield, spacing, rng, kind: field_volume(hounsfield, spacing, rng),
}


def prepare_implants(
    datalist: str | Path,
    output: str | Path,
    folds: Sequence[int] | str | None = HELD_OUT_FOLDS,
    per_scan: int = IMPLANTS_PER_SCAN,
    seed: int = 0,
    family: str = IMPLANT_FAMILIES[0],
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, int]:
    """Implant hemorrhage into the scans of a datalist that have none, and write them as a data set of their own.

    Each scan gets ``per_scan`` variants with one hemorrhage each, of the family ``shapes`` the five subtypes in turn.
    Figures measured on them must never be pooled with those on real hemorrhage.

    Args:
        datalist: with ``slice_labels``.
        output: new folder for ``images/``, ``labels/`` (codes of the subtypes), ``slice_labels.csv`` and
            ``datalist.json``, whose scans keep patient and fold and say ``implant``.
        folds: of the scans, e.g. those no network was trained on; None takes all.
        per_scan: variants of each scan.
        seed: of the implants.
        family: ``"shapes"``, as training draws them, or ``"fields"``, which no training uses, see
            :mod:`ichseg.synthetic.implants.fields`.
        progress: wraps the iteration over scans.

    Returns:
        counts: volumes, slices, positive_slices.

    Raises:
        IchsegError: no scan without hemorrhage, or the output exists.
    """
    if per_scan < 1:
        raise IchsegError(f"per_scan must be at least 1, not {per_scan}")
    if family not in FAMILIES:
        raise IchsegError(f"family must be one of {', '.join(FAMILIES)}, not '{family}'")
    draw = FAMILIES[family]
    healthy = [s for s in load_datalist(datalist, folds, require=("slice_labels",)) if not any(s["slice_labels"])]
    if not healthy:
        raise IchsegError(f"{datalist}: no scan without hemorrhage in fold(s) {folds}")
    codes = {name: code for code, name in SUBTYPES.items()}
    subtypes = list(codes)
    rng = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    with staged_folder(output) as folder:
        for scan in progress(healthy):
            volume = read_volume(scan["image"])
            note = SPACING_UNKNOWN if any(SPACING_UNKNOWN in flag for flag in volume.flags) else ""
            axis = slice_axis(volume.affine)
            upward = 1 if volume.affine[2, axis] >= 0 else -1
            hounsfield = np.moveaxis(volume.array, axis, 0).astype(np.float32)[::upward]
            steps = spacing_mm(volume.affine)
            rows, columns = [s for i, s in enumerate(steps) if i != axis]
            for number in range(per_scan):
                wanted = subtypes[len(entries) % len(subtypes)]
                made = None
                for attempt in range(TRIES):
                    # A head without room for one kind (no wide ventricle) may have room for another.
                    kind = wanted if attempt < TRIES // 2 else None
                    made = draw(hounsfield, (steps[axis], rows, columns), rng, kind)
                    if made is not None:
                        break
                if made is None:
                    continue
                image, mask, subtype = made
                case = f"{scan['case']}_{subtype}_{number}"
                image, mask = image[::upward], mask[::upward]  # as stored
                label = mask.astype(np.uint8) * codes[subtype]
                for subfolder, array in (("images", np.round(image).astype(np.int16)), ("labels", label)):
                    where = folder / subfolder / f"{case}.nii.gz"
                    write_volume(where, np.moveaxis(array, 0, axis), volume.affine, note)
                touched = np.asarray(mask.any(axis=(1, 2)))
                entries.append(
                    {
                        "case": case,
                        "patient": patient_name(scan),
                        "image": f"images/{case}.nii.gz",
                        "label": f"labels/{case}.nii.gz",
                        **({"fold": scan["fold"]} if "fold" in scan else {}),
                        "implant": subtype,
                        "slices": [{"hemorrhage": int(t), subtype: int(t)} for t in touched.tolist()],
                    }
                )
        if not entries:
            raise IchsegError(f"{datalist}: no room for an implant in any of {len(healthy)} scans without hemorrhage")
        counts = {
            "volumes": len(entries),
            "slices": sum(len(e["slices"]) for e in entries),
            "positive_slices": sum(row["hemorrhage"] for e in entries for row in e["slices"]),
        }
        write_datalist(folder, "implants", entries, semi_synthetic=True, family=family, seed=seed, counts=counts)
    return counts
