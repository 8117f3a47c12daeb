"""The brain window as a transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from ichseg.transforms.volumes import like, plain


class BrainWindow(Transform):
    """Clip Hounsfield units to a window and scale it to [0, 1].

    The same gray value means the same tissue in every slice: the window scales, never the image's own range.

    Args:
        level: center of the window in HU. The paper uses 50.
        width: width of the window in HU. The paper uses 130, which is -15 to 115 HU.
    """

    def __init__(self, level: float = 50.0, width: float = 130.0) -> None:
        if width <= 0:
            raise ValueError(f"the window width must be positive, not {width}")
        self.level, self.width = level, width

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Any shape in HU -> same shape, float32 in [0, 1]."""
        low = self.level - self.width / 2
        return like(torch.as_tensor(plain(image)).float().sub(low).div_(self.width).clamp_(0, 1), image)


class BrainWindowd(MapTransform):
    """Dictionary version of :class:`BrainWindow`."""

    def __init__(
        self,
        keys: KeysCollection,
        level: float = 50.0,
        width: float = 130.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window = BrainWindow(level, width)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.window(item[key])
        return item
