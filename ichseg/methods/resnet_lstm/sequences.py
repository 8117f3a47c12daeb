"""Windows of contiguous slices as training items."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch.utils.data import Dataset

from ichseg.data import SliceDataset
from ichseg.methods.resnet_lstm.network import LENGTH, windows


class SliceSequences(Dataset):
    """A window around every slice of a data set; at the ends of a scan its last slice is repeated.

    Args:
        slices: of whole scans, not augmented.
        length: slices of a window, odd.
        augment: MONAI transform of ``image`` (length, H, W), the same for all slices of the window.

    Items: ``image`` (length, 1, H, W), ``label`` (length,), -1 where a slice is repeated; the middle one never is.
    """

    def __init__(
        self,
        slices: SliceDataset,
        length: int = LENGTH,
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.slices, self.augment = slices, augment
        parts, start = [], 0
        for _, scan in groupby(slices.index, key=lambda place: place[0]):
            count = sum(1 for _ in scan)
            parts.append(windows(count, length) + start)
            start += count
        self.places = torch.cat(parts)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        places = self.places[number]
        image, label = self.slices.images[places, 0].float(), self.slices.labels[places].clone()
        here = len(places) // 2
        repeated = places[1:] == places[:-1]
        label[:here][repeated[:here]] = -1  # before the scan begins
        label[here + 1 :][repeated[here:]] = -1  # after it ends
        if self.augment is not None:
            augmented = self.augment({"image": image})["image"]
            image = torch.as_tensor(getattr(augmented, "array", augmented))
        return {"image": image[:, None], "label": label}

    @property
    def positive(self) -> torch.Tensor:
        """(n,) bool: windows whose middle slice bleeds; for :func:`ichseg.data.balanced_sampler`."""
        return self.slices.positive


def middle_score_and_label(output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1) probability and (B, 1) label of the slices in the middle, for the area under the ROC curve."""
    logits, label = output["pred"], output["label"]
    middle = logits.shape[-1] // 2
    return logits[..., middle].sigmoid().reshape(-1, 1), label[..., middle].reshape(-1, 1)
