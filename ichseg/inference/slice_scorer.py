"""Score the slices of a volume with a slice classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer


class SliceScorer(Inferer):
    """(B, 1, X, Y, slices) -> (B, slices): probability of hemorrhage of every slice.

    Slices run along the last axis, as the bundles' preprocessing leaves them.

    Args:
        batch_size: slices per pass.
        enabled: False gives NaN: unknown, to be found out by what comes after.
    """

    def __init__(self, batch_size: int = 16, enabled: bool = True) -> None:
        super().__init__()
        self.batch_size, self.enabled = batch_size, enabled

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if not self.enabled:
            return torch.full((len(volume), volume.shape[-1]), torch.nan)
        slices = volume.movedim(-1, 1).flatten(0, 1)
        scores = [network(batch)[:, 1] for batch in slices.split(self.batch_size)]
        return torch.cat(scores).float().reshape(len(volume), -1)
