"""Score the slices of a volume with a slice classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer


class SliceScorer(Inferer):
    """(1, 1, X, Y, slices) -> (1, slices): probability of hemorrhage of every slice.

    Slices run along the last axis, as the bundles' preprocessing leaves them.

    Args:
        batch_size: slices per pass.
    """

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        slices = volume[0].movedim(-1, 0)
        scores = [network(batch)[:, 1] for batch in slices.split(self.batch_size)]
        return torch.cat(scores).float()[None]
