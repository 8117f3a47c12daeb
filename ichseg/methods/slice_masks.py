"""Masks of a scan's slices by any function of slices, as a MONAI transform: what the baselines share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.traits import ThreadUnsafe
from torch import Tensor

from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.volumes import like, plain

MaskMaker = Callable[[Tensor], Tensor]


class SliceMasksd(SingleKeyTransform, ThreadUnsafe):
    """Windowed scan -> masks of the slices that may bleed, a few slices at a time.

    Args:
        keys: the scan (1, X, Y, slices) in [0, 1]; one key.
        maker: (B, 1, H, W) -> (B, H, W) bool.
        probability_key: (slices,) probabilities of hemorrhage; below ``gate``, a slice stays empty.
        output_key: gets the mask (1, X, Y, slices) uint8.
        gate: probability a slice needs.
        batch_size: slices at a time.
        allow_missing_keys: do nothing where the key is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        maker: MaskMaker,
        probability_key: str = "pred",
        output_key: str = "pred",
        gate: float = 0.5,
        batch_size: int = 4,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.maker, self.gate, self.batch_size = maker, gate, batch_size
        self.probability_key, self.output_key = probability_key, output_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            slices = plain(image)[0].movedim(-1, 0)[:, None].float()
            masks = torch.zeros(slices[:, 0].shape, dtype=torch.uint8)
            chosen = torch.as_tensor(item[self.probability_key]).flatten().cpu() >= self.gate
            places = chosen.nonzero()[:, 0]
            for some in places.split(self.batch_size) if len(places) else ():
                masks[some] = self.maker(slices[some]).cpu().to(torch.uint8)
            item[self.output_key] = like(masks.movedim(0, -1)[None], image)
        return item
