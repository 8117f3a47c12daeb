"""The memory bank: every slice's map of every layer and model, until its run of slices has been fused."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ichseg.context.fusion import ensemble


class MemoryBank:
    """Write-once store of maps, keyed by (slice, layer, model).

    Fusion reads only what was put in, never what it wrote, so the order of writing does not matter.
    """

    def __init__(self) -> None:
        self._maps: dict[tuple[int, Hashable, Hashable], Tensor] = {}

    def __len__(self) -> int:
        return len(self._maps)

    def put(self, index: int, layer: Hashable, model: Hashable, map_: Tensor) -> None:
        """Store the (h, w) map of one slice.

        Raises:
            ValueError: there is one already, or the map is not two-dimensional.
        """
        key = (index, layer, model)
        if key in self._maps:
            raise ValueError(f"slice {index}, layer {layer}, model {model} is already in the bank")
        if map_.ndim != 2:
            raise ValueError(f"a map must have shape (h, w), not {tuple(map_.shape)}")
        self._maps[key] = map_

    def ensembled(self, start: int, stop: int, layer: Hashable) -> Tensor:
        """(n, h, w): mean over models of the slices start to stop - 1.

        Raises:
            ValueError: a slice of the run is missing, or models lack slices that others have.
        """
        models = sorted({m for (_, lay, m) in self._maps if lay == layer}, key=str)
        try:
            stacks = [torch.stack([self._maps[i, layer, m] for i in range(start, stop)]) for m in models]
        except KeyError as error:
            raise ValueError(f"not in the bank: slice, layer, model {error.args[0]}") from None
        return ensemble(stacks)
