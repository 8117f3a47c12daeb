"""The scores of a scan's slices, and masks of those that bleed, as MONAI parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms.traits import ThreadUnsafe

from ichseg.methods.resnet_lstm.candidates import bright_candidates, refined
from ichseg.methods.resnet_lstm.network import LENGTH, SliceSequenceClassifier, sequence_maps, windows
from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis, windowed_hounsfield


class SequenceScorer(Inferer):
    """(1, 1, X, Y, slices) -> (1, slices): probability of every slice, from the window around it.

    Args:
        length: slices of a window.
        batch_size: windows per pass.
    """

    def __init__(self, length: int = LENGTH, batch_size: int = 4) -> None:
        super().__init__()
        self.length, self.batch_size = length, batch_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        slices = volume[0].movedim(-1, 0)
        places = windows(len(slices), self.length).to(slices.device)
        middle = self.length // 2
        scores = [network(slices[some])[:, middle] for some in places.split(self.batch_size)]
        return torch.cat(scores).float().sigmoid()[None]


class SequenceMasksd(SingleKeyTransform, ThreadUnsafe):
    """Windowed scan -> a mask of the bright pieces that the class activation map of their slice points at.

    Args:
        keys: the scan (1, X, Y, Z) in [0, 1]; one key.
        network: :class:`SliceSequenceClassifier`.
        probability_key: (slices,) probabilities of hemorrhage.
        output_key: gets the mask (1, X, Y, Z) uint8.
        score_key: gets the maps (1, X, Y, Z) in [0, 1].
        length: slices that are read together.
        gate: probability a slice needs.
        level, width: window of the scan in HU.
        least_mean: mean of the map a piece needs, see :func:`refined`.
        seed: of the clustering.
        device: where the network runs.
        allow_missing_keys: do nothing where the key is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: SliceSequenceClassifier,
        probability_key: str = "pred",
        output_key: str = "pred",
        score_key: str = "score",
        length: int = LENGTH,
        gate: float = 0.5,
        level: float = 50.0,
        width: float = 130.0,
        least_mean: float = 0.4,
        seed: int = 0,
        device: str | torch.device = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.network, self.length, self.gate, self.device = network, length, gate, torch.device(device)
        self.probability_key, self.output_key, self.score_key = probability_key, output_key, score_key
        self.level, self.width, self.least_mean, self.seed = level, width, least_mean, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image, axis = item[key], volume_slice_axis(item[key])
            slices = plain(image).movedim(1 + axis, 0).float()
            positive = plain(item[self.probability_key]).flatten() >= self.gate
            hounsfield = np.moveaxis(windowed_hounsfield(image, self.level, self.width), axis, 0)
            maps, masks = torch.zeros_like(slices[:, 0]), torch.zeros(slices[:, 0].shape, dtype=torch.uint8)
            places = windows(len(slices), self.length)
            network = self.network.to(self.device)
            for index in torch.nonzero(positive).flatten().tolist():
                made = sequence_maps(network, slices[places[index]].to(self.device), gate=0.0)[1]
                maps[index] = made[self.length // 2].cpu()
                bright = bright_candidates(hounsfield[index], self.seed)
                masks[index] = torch.from_numpy(refined(bright, maps[index].numpy(), self.least_mean))
            item[self.score_key] = like(maps.movedim(0, axis)[None], image)
            item[self.output_key] = like(masks.movedim(0, axis)[None], image)
        return item
