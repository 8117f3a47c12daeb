"""One binary mask from the maps of several layers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from ichseg.context import combined_score
from ichseg.defaults import PAPER_THRESHOLD
from ichseg.transforms.base import BACKENDS
from ichseg.transforms.volumes import like, plain, volume_slice_axis

LAYERS = ("both", "1", "2", "mean")


class LayerAggregation(Transform):
    """Binary mask from the maps of several layers, see :func:`ichseg.context.aggregate`.

    Args:
        threshold: strict; None gives the score that would be compared with it.
        rule: ``"or"`` or ``"and"``.
        layers: ``"both"`` (bi-layer aggregation), or what stands in its place without it (decision D14; the paper
            does not say which layer its rows without aggregation use): ``"1"``, ``"2"`` or their ``"mean"``.
            A single map is taken whatever this says.
    """

    backend = BACKENDS

    def __init__(self, threshold: float | None = PAPER_THRESHOLD, rule: str = "or", layers: str | int = "both") -> None:
        if str(layers) not in LAYERS:
            raise ValueError(f"layers must be one of {', '.join(LAYERS)}, not '{layers}'")
        self.threshold, self.rule, self.layers = threshold, rule, str(layers)

    def __call__(self, maps: Sequence[torch.Tensor], reference: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Volumes of maps (1, ...) and the scan (1, X, Y, Z) they belong to -> float mask like the scan."""
        return self.cut(self.score(maps, reference))

    def cut(self, score: torch.Tensor) -> torch.Tensor:
        """Score -> float mask; the score itself where there is no threshold."""
        return score if self.threshold is None else like((plain(score) > self.threshold).float(), score)

    def score(self, maps: Sequence[torch.Tensor], reference: torch.Tensor) -> torch.Tensor:
        """Volumes of maps (1, ...) and the scan -> what is compared with the threshold, like the scan."""
        axis = volume_slice_axis(reference)
        target = plain(reference)[0].movedim(axis, 0).shape[1:]
        stacks = [plain(m)[0].movedim(axis, 0) for m in maps]
        if self.layers in ("1", "2") and len(stacks) > 1:
            stacks = [stacks[int(self.layers) - 1]]
        score = combined_score(stacks, target, "mean" if self.layers == "mean" else self.rule)
        return like(score.movedim(0, axis)[None], reference)


class LayerAggregationd(MapTransform):
    """Dictionary version of :class:`LayerAggregation`: several maps in, one mask out.

    Args:
        keys: the layers' maps; they are consumed.
        reference_key: the scan whose size and geometry the mask gets.
        output_key: key of the mask.
        threshold, rule, layers: as in :class:`LayerAggregation`.
        score_key: key of the score; None does not keep it.
        allow_missing_keys: leave out maps that are not there; where none is, there is no mask.
    """

    backend = BACKENDS

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str,
        output_key: str,
        threshold: float | None = PAPER_THRESHOLD,
        rule: str = "or",
        layers: str | int = "both",
        score_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference_key, self.output_key, self.score_key = reference_key, output_key, score_key
        self.transform = LayerAggregation(threshold, rule, layers)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        maps = [item.pop(key) for key in self.key_iterator(dict(item))]
        if not maps:
            return item
        score = self.transform.score(maps, item[self.reference_key])
        item[self.output_key] = self.transform.cut(score)
        if self.score_key is not None:
            item[self.score_key] = score
        return item
