"""Implants beside real hemorrhage, to be looked at before they are trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ichseg.data import SUBTYPE_NAMES, load_datalist
from ichseg.data.datalist import read_slice_table
from ichseg.io import read_mask, read_volume, slice_axis
from ichseg.report.montage import montage, slice_picture

PER_ROW = 6


def implant_montage(implants: str | Path, real: str | Path, path: str | Path) -> None:
    """For every subtype a row of implants without outline, the same with outline, and a row of real slices.

    Args:
        implants: datalist of :func:`ichseg.synthetic.implants.prepare_implants`.
        real: datalist the implants were made from; its positive slices are shown, by subtype where
            ``slice_labels.csv`` beside it tells.
        path: PNG to write.
    """
    rows: list[tuple[str, list[Image.Image]]] = []
    entries = load_datalist(implants)
    truly = _real_slices(Path(real))
    source = json.loads(Path(real).read_text(encoding="utf-8")).get("name") or "the same data set"
    for code, name in SUBTYPE_NAMES.items():
        plain, outlined = [], []
        for entry in [e for e in entries if e.get("implant") == code][:PER_ROW]:
            volume = read_volume(entry["image"])
            axis = slice_axis(volume.affine)
            mask = np.moveaxis(read_mask(entry["label"])[0], axis, 0) > 0
            at = int(mask.sum(axis=(1, 2)).argmax())
            hounsfield = np.take(volume.array, at, axis)
            plain.append(slice_picture(hounsfield))
            outlined.append(slice_picture(hounsfield, truth=mask[at]))
        if plain:
            rows += [(f"{name}: implants", plain), (f"{name}: implants with their exact masks", outlined)]
        found: list[Image.Image] = []
        for image, index in _spread(truly.get(code, []), PER_ROW):
            volume = read_volume(image)
            found.append(slice_picture(np.take(volume.array, index, slice_axis(volume.affine))))
        if found and plain:
            rows.append((f"{name}: real hemorrhage from {source}", found))
    if rows:
        montage(rows, path, predictions=False)


def _real_slices(datalist: Path) -> dict[str, list[tuple[str, int]]]:
    """Subtype -> (image, slice index) of slices that carry this subtype alone."""
    images = {scan["case"]: scan["image"] for scan in load_datalist(datalist, check_files=False)}
    found: dict[str, list[tuple[str, int]]] = {}
    for (case, index), row in read_slice_table(datalist.parent).items():
        kinds = [name for name in SUBTYPE_NAMES if row.get(name) == "1"]
        if len(kinds) == 1 and case in images:
            found.setdefault(kinds[0], []).append((images[case], index))
    return found


def _spread(items: list, count: int) -> list:
    """At most ``count`` of the items, from first to last."""
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, min(count, len(items)))] if items else []
