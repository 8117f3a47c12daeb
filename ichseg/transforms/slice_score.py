"""From logits of pixels and of the slice to one probability."""

from __future__ import annotations

import torch
from monai.transforms import Transform

from ichseg.context import fuse_scores
from ichseg.networks import SUSPICIOUS_SHARE, slice_scores
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class SliceScoredProbability(Transform):
    """Logits (3, X, Y, Z) of :class:`ichseg.networks.ContextUNet` -> probability of hemorrhage (1, X, Y, Z).

    The score of a slice is the mean of what the network says of the slice and of its most suspicious pixels; it hears
    its neighbors by spatial context fusion (:func:`ichseg.context.fuse`) and becomes a probability by Platt scaling,
    ``p_slice = sigmoid(slope * score + offset)``, fitted on slice labels as if half of all slices bled. A pixel bleeds
    if its slice does and it is where: ``p = p_slice * p_pixel``.

    Args:
        slope, offset: of Platt scaling.
        window, weight: of spatial context fusion; a weight of 0 leaves every slice alone.
        share: of a slice's pixels that count as its most suspicious.
    """

    backend = BACKENDS

    def __init__(
        self,
        slope: float = 1.0,
        offset: float = 0.0,
        window: int = 2,
        weight: float = 0.5,
        share: float = SUSPICIOUS_SHARE,
    ) -> None:
        self.slope, self.offset, self.window, self.weight, self.share = slope, offset, window, weight, share

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if len(logits) != 3:
            raise ValueError(f"expected logits for background, hemorrhage and slice, not {len(logits)} channels")
        axis = volume_slice_axis(logits)
        slices = plain(logits).movedim(1 + axis, 0).float()
        pixels = slices[:, 1] - slices[:, 0]
        score = slice_scores(slices, self.share)
        score = fuse_scores(score, self.window, self.weight)
        bleeds = torch.sigmoid(self.slope * score + self.offset)
        probability = pixels.sigmoid() * bleeds[:, None, None]
        return like(probability.movedim(0, axis)[None], logits)


class SliceScoredProbabilityd(DictionaryTransform, array=SliceScoredProbability):
    """Dictionary version of :class:`SliceScoredProbability`."""
