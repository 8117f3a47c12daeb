"""Implanted hemorrhage as a random transform for training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform

from ichseg.synthetic.implants import draw_lookalikes, implant_hemorrhage
from ichseg.transforms.base import BACKENDS
from ichseg.transforms.volumes import like, plain, windowed_hounsfield


class RandImplantHemorrhaged(RandomizableTransform, MapTransform):
    """Turn some negative slices into positive ones, see :func:`ichseg.synthetic.implants.implant_hemorrhage`.

    Slices that carry real hemorrhage (label above 0, or a mask of -1) are never touched.

    Args:
        image_key: windowed slice (1, H, W) in [0, 1].
        label_key: slice label, which becomes 1, or mask (1, H, W), which becomes the implant's exact mask.
        prob: chance for a negative slice.
        mask_key: where to put the mask (1, H, W): 1 in the implant, 0 elsewhere, -1 all over a slice with real
            hemorrhage, whose mask is not known; None keeps no mask.
        level, width: the window the slice was scaled with, in HU.
        lookalike_prob: chance that a slice, whatever its label, first gets something that mimics hemorrhage, see
            :func:`ichseg.synthetic.implants.draw_lookalikes`.
    """

    backend = BACKENDS

    def __init__(
        self,
        image_key: str = "image",
        label_key: str = "label",
        prob: float = 0.5,
        mask_key: str | None = None,
        level: float = 50.0,
        width: float = 130.0,
        lookalike_prob: float = 0.0,
    ) -> None:
        MapTransform.__init__(self, [image_key, label_key])
        RandomizableTransform.__init__(self, prob)
        self.image_key, self.label_key, self.mask_key = image_key, label_key, mask_key
        self.low, self.width, self.lookalike_prob = level - width / 2, width, lookalike_prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image = item[self.image_key]
        if len(image) != 1:
            raise ValueError(f"key '{self.image_key}': expected one channel, not shape {tuple(image.shape)}")
        self.randomize(None)
        seed = int(self.R.randint(2**31))
        if self.lookalike_prob and self.R.uniform() < self.lookalike_prob:
            drawn = draw_lookalikes(self._hounsfield(item), np.random.default_rng(self.R.randint(2**31)))
            if drawn is not None:
                item[self.image_key] = like(self._windowed(drawn), image)
        item[self.label_key] = label = torch.as_tensor(item[self.label_key])  # of one kind, changed or not
        bleeding = bool((label != 0).any())  # -1: it bleeds nobody knows where
        if self.mask_key is not None:
            item[self.mask_key] = like(torch.full_like(plain(image), -1.0 if bleeding else 0.0), image)
        if not self._do_transform or bleeding:
            return item
        made = implant_hemorrhage(self._hounsfield(item), np.random.default_rng(seed))
        if made is not None:
            item[self.image_key] = like(self._windowed(made[0]), image)
            spatial = label.ndim > 1
            if self.mask_key is not None:
                item[self.mask_key] = like(torch.from_numpy(made[1])[None].float(), image)
            mask = torch.from_numpy(made[1])[None]
            item[self.label_key] = like(mask.to(plain(label)), label) if spatial else torch.ones_like(label)
        return item

    def _hounsfield(self, item: Mapping[Hashable, Any]) -> np.ndarray:
        return windowed_hounsfield(item[self.image_key], self.low + self.width / 2, self.width)

    def _windowed(self, hounsfield: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((hounsfield - self.low) / self.width).float().clamp(0, 1)[None]
