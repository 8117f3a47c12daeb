"""Attention maps of a volume's positive slices, as a transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms.traits import ThreadUnsafe
from scipy import ndimage
from torch import nn

from ichseg.anatomy import intracranial_mask
from ichseg.methods.hgi_sam.method import hgi_sam_maps, swin_grad_cam_maps, swin_sam_maps
from ichseg.methods.hgi_sam.recorder import PLACES
from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis, windowed_hounsfield

MAPS = ("hgi_sam", "swin_sam", "swin_grad_cam")


class AttentionMapsd(SingleKeyTransform, ThreadUnsafe):
    """Windowed slices -> one map per slice, zeros where the slice is negative.

    Args:
        keys: the scan (C, X, Y, Z), as the network takes it; one key. The first channel shows the brain.
        network: an ensemble of one Swin classifier, see :func:`ichseg.methods.hgi_sam.settings.load_swin`.
        probability_key: (slices,) probabilities of hemorrhage.
        output_key: gets the maps (1, X, Y, Z) in [0, 1].
        kind: ``"hgi_sam"``, ``"swin_sam"`` or ``"swin_grad_cam"``.
        gate: probability a slice needs.
        level, width: window of the first channel in HU.
        erosion: pixels taken from the rim of the brain.
        gradients_at: see :class:`ichseg.methods.hgi_sam.AttentionRecorder`.
        batch_size: slices per pass.
        device: where the network runs.
        allow_missing_keys: do nothing where the key is not there.

    Raises:
        ValueError: an unknown kind or place.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: nn.Module,
        probability_key: str = "pred",
        output_key: str = "score",
        kind: str = "hgi_sam",
        gate: float = 0.5,
        level: float = 40.0,
        width: float = 120.0,
        erosion: int = 3,
        gradients_at: str = PLACES[0],
        batch_size: int = 4,
        device: str | torch.device = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if kind not in MAPS:
            raise ValueError(f"kind must be one of {', '.join(MAPS)}, not '{kind}'")
        if gradients_at not in PLACES:
            raise ValueError(f"gradients_at must be one of {', '.join(PLACES)}, not '{gradients_at}'")
        self.network = next(iter(getattr(network, "networks", [network])))
        self.probability_key, self.output_key, self.kind, self.gate = probability_key, output_key, kind, gate
        self.level, self.width, self.erosion, self.gradients_at = level, width, erosion, gradients_at
        self.batch_size, self.device = batch_size, torch.device(device)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image, axis = item[key], volume_slice_axis(item[key])
            slices = plain(image).movedim(1 + axis, 0).float()
            maps = slices.new_zeros(len(slices), *slices.shape[2:])
            positive = torch.nonzero(plain(item[self.probability_key]).flatten() >= self.gate).flatten().tolist()
            hounsfield = np.moveaxis(windowed_hounsfield(image, self.level, self.width), axis, 0)
            for start in range(0, len(positive), self.batch_size):
                some = positive[start : start + self.batch_size]
                brain = torch.from_numpy(np.stack([self._brain(hounsfield[index]) for index in some]))
                maps[some] = self._maps(slices[some].to(self.device), brain.to(self.device)).to(maps.device)
            item[self.output_key] = like(maps.movedim(0, axis)[None], image)
        return item

    def _brain(self, hounsfield: np.ndarray) -> np.ndarray:
        brain = intracranial_mask(hounsfield)
        return ndimage.binary_erosion(brain, iterations=self.erosion) if self.erosion else brain

    def _maps(self, images: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        network = self.network.to(self.device)
        if self.kind == "hgi_sam":
            return hgi_sam_maps(images, network, brain, gradients_at=self.gradients_at)[1]
        if self.kind == "swin_sam":
            return swin_sam_maps(images, network, brain)[1]
        return swin_grad_cam_maps(images, network, network.last_norm, brain)[1]
