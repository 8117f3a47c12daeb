"""Hemorrhage subtypes of packed slices, where a data set tells them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ichseg.data.datalist import read_slice_table
from ichseg.data.packed import PackedScans
from ichseg.data.subtypes import SUBTYPE_ORDER

logger = logging.getLogger(__name__)
UNKNOWN = -1


def pack_subtypes(packed: PackedScans, datalist: str | Path, enabled: bool = True) -> np.ndarray | None:
    """Subtypes of every packed slice, from ``slice_labels.csv`` next to the datalist.

    Without any there, implants alone teach them, and the log says so.

    Args:
        packed: the scans.
        datalist: the file they were made of.
        enabled: False gives None.

    Returns:
        (slices, subtypes) int8 in the order of :data:`ichseg.data.subtypes.SUBTYPE_ORDER`: 1, 0, or -1 where the table
        has neither, and in positive slices without any subtype.
    """
    if not enabled:
        return None
    table = read_slice_table(Path(datalist).parent)
    subtypes = np.full((len(packed), len(SUBTYPE_ORDER)), UNKNOWN, np.int8)
    subtypes[packed.labels == 0] = 0
    for number, case in enumerate(packed.cases):
        where = packed.scan(number)
        for index in where.start + np.flatnonzero(packed.labels[where]):
            row = table.get((case, int(packed.stored[index])), {})
            told = [{"1": 1, "0": 0}.get(row.get(name, ""), UNKNOWN) for name in SUBTYPE_ORDER]
            if 1 in told:
                subtypes[index] = told
    if not (subtypes == 1).any():
        lacking = "no slice_labels.csv with subtypes in its folder; subtypes are learned from implants only"
        logger.warning("%s: %s", datalist, lacking)
    return subtypes


def bits_of(subtypes: Sequence[str]) -> int:
    """Names of subtypes as one number, a bit for each."""
    return sum(1 << SUBTYPE_ORDER.index(name) for name in set(subtypes))


def of_bits(bits: int) -> np.ndarray:
    """(subtypes,) int8, 0 or 1."""
    return np.array([bits >> place & 1 for place in range(len(SUBTYPE_ORDER))], np.int8)
