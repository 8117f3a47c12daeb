"""Hemorrhage types of packed slices, where a data set tells them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ichseg.data.datalist import read_slice_table
from ichseg.data.packed import PackedScans
from ichseg.data.subtypes import TYPES
from ichseg.errors import IchsegError

TYPE_UNKNOWN = -1


def pack_types(packed: PackedScans, datalist: str | Path, enabled: bool = True) -> np.ndarray | None:
    """Types of every packed slice, of ``slice_labels.csv`` beside the datalist.

    Args:
        packed: the scans.
        datalist: the file they were made of.
        enabled: False gives None.

    Returns:
        (slices, types) int8 in the order of :data:`ichseg.data.subtypes.TYPES`: 1, 0, or -1 where a positive slice has
        none of them.

    Raises:
        IchsegError: no positive slice has a type.
    """
    if not enabled:
        return None
    table = read_slice_table(Path(datalist).parent)
    types = np.full((len(packed), len(TYPES)), TYPE_UNKNOWN, np.int8)
    types[packed.labels == 0] = 0
    for number, case in enumerate(packed.cases):
        where = packed.scan(number)
        for index in range(where.start, where.stop):
            row = table.get((case, int(packed.stored[index])), {})
            known = [row.get(name) == "1" for name in TYPES]
            if packed.labels[index] and any(known):
                types[index] = known
    if not (types == 1).any():
        raise IchsegError(
            f"{datalist}: no slice_labels.csv beside it, or no hemorrhage types in it; type_weight needs them"
        )
    return types


def bits_of(types: Sequence[str]) -> int:
    """Names of types as one number, a bit for each."""
    return sum(1 << TYPES.index(name) for name in set(types))


def of_bits(bits: int) -> np.ndarray:
    """(types,) int8, 0 or 1."""
    return np.array([bits >> place & 1 for place in range(len(TYPES))], np.int8)
