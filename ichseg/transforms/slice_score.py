"""From logits of pixels and of the slice to one probability."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ichseg.context import fuse_scores, support_pixels
from ichseg.data.slices import NEIGHBOR_MM, neighbors
from ichseg.data.subtypes import SUBTYPE_ORDER
from ichseg.io import spacing_mm
from ichseg.networks import SUSPICIOUS_SHARE, slice_scores
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis

LIKELY = 0.5


class SliceScoredProbability(Transform):
    """Logits (3, X, Y, Z) of :class:`ichseg.networks.ContextUNet` -> probability of hemorrhage (1, X, Y, Z).

    Channels beyond the third are those of hemorrhage subtypes.

    The score of a slice is the mean of the network's slice logit and of the logits of its most suspicious pixels. It is
    fused with those of neighboring slices (:func:`ichseg.context.fuse`) and turned into a probability by Platt scaling,
    ``p_slice = sigmoid(slope * score + offset)``, fitted on slice labels weighted as if half of all slices were
    positive. The probability of a pixel is ``p = p_slice * p_pixel``; before that, the logits of pixels that
    neighboring slices do not support may be lowered (:func:`ichseg.context.support_pixels`).

    Args:
        slope, offset: of Platt scaling.
        window, weight: of spatial context fusion; a weight of 0 leaves every slice alone.
        share: of a slice's pixels that count as its most suspicious.
        patient_slope, patient_offset: of Platt scaling, from the largest score of a scan's slices to the probability
            that the scan shows hemorrhage; None: not fitted.
        support: weight of the neighboring slices' support; 0 lowers nothing.
    """

    backend = BACKENDS

    def __init__(
        self,
        slope: float = 1.0,
        offset: float = 0.0,
        window: int = 2,
        weight: float = 0.5,
        share: float = SUSPICIOUS_SHARE,
        patient_slope: float | None = None,
        patient_offset: float = 0.0,
        support: float = 0.0,
    ) -> None:
        self.support = support
        self.patient_slope, self.patient_offset = patient_slope, patient_offset
        self.slope, self.offset, self.window, self.weight, self.share = slope, offset, window, weight, share

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        axis, slices = self._slices(logits)
        bleeds = torch.sigmoid(self.slope * self._scores(slices) + self.offset)
        step = float(spacing_mm(np.asarray(logits.affine))[axis]) if isinstance(logits, MetaTensor) else NEIGHBOR_MM
        pixels = support_pixels(slices[:, 1] - slices[:, 0], *neighbors(len(slices), step), self.support)
        probability = pixels.sigmoid() * bleeds[:, None, None]
        return like(probability.movedim(0, axis)[None], logits)

    def patient_probability(self, logits: torch.Tensor) -> float | None:
        """The probability that the scan shows hemorrhage anywhere; None where it was not fitted."""
        if self.patient_slope is None:
            return None
        largest = self._scores(self._slices(logits)[1]).max()
        return float(torch.sigmoid(self.patient_slope * largest + self.patient_offset))

    def subtypes(self, logits: torch.Tensor) -> dict[str, float] | None:
        """Subtype -> its largest probability in any slice, times that slice's own; None where none are scored."""
        if len(logits) == 3:
            return None
        _, slices = self._slices(logits)
        bleeds = torch.sigmoid(self.slope * self._scores(slices) + self.offset)
        found = (slices[:, 3:, 0, 0].sigmoid() * bleeds[:, None]).amax(dim=0)
        return dict(zip(SUBTYPE_ORDER, found.tolist(), strict=True))

    def _slices(self, logits: torch.Tensor) -> tuple[int, torch.Tensor]:
        if len(logits) not in (3, 3 + len(SUBTYPE_ORDER)):
            raise ValueError(
                f"expected logits for background, hemorrhage, slice, and perhaps {len(SUBTYPE_ORDER)} subtypes, not "
                f"{len(logits)} channels"
            )
        axis = volume_slice_axis(logits)
        return axis, plain(logits).movedim(1 + axis, 0).float()

    def _scores(self, slices: torch.Tensor) -> torch.Tensor:
        return fuse_scores(slice_scores(slices, self.share), self.window, self.weight)


class SliceScoredProbabilityd(DictionaryTransform, array=SliceScoredProbability):
    """Dictionary version of :class:`SliceScoredProbability`; the scan's own probability goes under ``probability``.

    Where subtypes are scored, the likely ones (from .5) and their probabilities go under ``subtypes``, the likeliest
    first.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            probability = self.of_key(key).patient_probability(item[key])
            if probability is not None and math.isfinite(probability):
                item["probability"] = round(probability, 3)
            subtypes = self.of_key(key).subtypes(item[key])
            if subtypes is not None and all(map(math.isfinite, subtypes.values())):
                likely = sorted((name for name in subtypes if subtypes[name] >= LIKELY), key=lambda n: -subtypes[n])
                item["subtypes"] = {name: round(subtypes[name], 3) for name in likely}
        return super().__call__(item)
