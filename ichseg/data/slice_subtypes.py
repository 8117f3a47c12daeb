"""Subtypes of slices that are not packed, as targets with gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from ichseg.data.datalist import read_slice_table
from ichseg.data.slices import SliceDataset
from ichseg.data.subtypes import SUBTYPE_ORDER
from ichseg.errors import IchsegError

UNKNOWN = -1


def subtype_targets(slices: SliceDataset, datalist: str | Path, required: bool = True) -> Tensor:
    """(n, 1 + subtypes) of any hemorrhage and of each subtype, 0 or 1; -1 in positive slices whose subtype is not told.

    Args:
        slices: with slice labels.
        datalist: whose ``slice_labels.csv`` tells subtypes.
        required: False: none need be told, as in few validation scans.

    Raises:
        IchsegError: none is told.
    """
    table = read_slice_table(Path(datalist).parent)
    rows = []
    for place, bleeds in zip(slices.index, slices.labels.tolist(), strict=True):
        rows.append([bleeds, *_row(table.get(place, {}), bool(bleeds))])
    if required and not any(1 in row[1:] for row in rows):
        raise IchsegError(f"{datalist}: no slice_labels.csv with subtypes in its folder")
    return torch.tensor(rows)


def _row(row: Mapping[str, str], bleeds: bool) -> Sequence[int]:
    if not bleeds:
        return [0] * len(SUBTYPE_ORDER)
    told = [{"1": 1, "0": 0}.get(row.get(name, ""), UNKNOWN) for name in SUBTYPE_ORDER]
    return told if 1 in told else [UNKNOWN] * len(told)


class SubtypeSlices(Dataset):
    """Slices whose ``label`` is (1 + subtypes,), see :func:`subtype_targets`.

    Args:
        slices: with slice labels.
        datalist: whose ``slice_labels.csv`` tells subtypes.
        enabled: False leaves the label of a slice as it is, 0 or 1.
        required: see :func:`subtype_targets`.
    """

    def __init__(self, slices: SliceDataset, datalist: str | Path, enabled: bool = True, required: bool = True) -> None:
        self.slices = slices
        self.targets = subtype_targets(slices, datalist, required) if enabled else None

    @property
    def positive(self) -> Tensor:
        """(n,) bool, for a balanced sampler."""
        return self.slices.positive

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.slices[i]
        return item if self.targets is None else {**item, "label": self.targets[i]}


def known_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy of the targets that are known, all classes together.

    Args:
        logits: (B, classes).
        targets: (B, classes), 0 or 1, -1 where it is not known.
        weights: (classes,) of positives.
    """
    known = (targets >= 0).to(logits)
    each = functional.binary_cross_entropy_with_logits(
        logits, targets.clamp(min=0).to(logits), pos_weight=weights, reduction="none"
    )
    return (each * known).sum() / known.sum().clamp(min=1)
