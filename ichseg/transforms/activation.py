"""Any method of the CAM family on any classifier, as a transform."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform
from monai.transforms.traits import ThreadUnsafe
from torch import nn

from ichseg.cam import CAMExtractor, min_max
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis

MODES = {2: "bilinear", 3: "trilinear"}


class ClassActivationMap(Transform, ThreadUnsafe):
    """Class activation maps of a classifier: one per layer, at the size of the image.

    A 2-D network sees a volume slice by slice. This works with any network, layer and method; for pseudo-masks, with
    gating, fusion and aggregation, see :class:`ShallowFeatureCAM`.

    Args:
        network: (B, C, ...) -> logits (B, classes).
        layers: module names or modules.
        method: see :class:`ichseg.cam.CAMExtractor`, as ``target`` and ``**options``.
        spatial_dims: 2 or 3, what the network takes.
        normalize: scale each map to [0, 1]; False gives raw maps.
        resize: bring maps to the image's size; False leaves them at the layer's own.
        batch_size: slices per pass.
        device: where the network runs.

    Raises:
        ValueError: as the extractor; or the image has too few axes.
    """

    backend = BACKENDS

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str | nn.Module],
        method: str = "layer_cam",
        target: int | str = 1,
        spatial_dims: int = 2,
        normalize: bool = True,
        resize: bool = True,
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> None:
        if spatial_dims not in MODES:
            raise ValueError(f"spatial_dims must be 2 or 3, not {spatial_dims}")
        self.network, self.layers, self.method, self.target = network, layers, method, target
        self.spatial_dims, self.normalize, self.resize = spatial_dims, normalize, resize
        self.batch_size, self.device, self.options = batch_size, torch.device(device), options
        CAMExtractor(network, layers, method, target, **options)  # wrong names are told now, not at the first image

    def __call__(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(C, H, W) or (C, X, Y, Z) -> one (1, ...) map per layer, with the affine of the image at any size."""
        by_slice = self.spatial_dims == 2 and image.ndim == 4
        if image.ndim != self.spatial_dims + 1 and not by_slice:
            wanted = "(C, X, Y, Z) or (C, H, W)" if self.spatial_dims == 2 else "(C, X, Y, Z)"
            raise ValueError(
                f"a {self.spatial_dims}-D network cannot take an image of shape {tuple(image.shape)}; expected {wanted}"
            )
        axis = volume_slice_axis(image) if by_slice else 0
        batch = plain(image).movedim(1 + axis, 0) if by_slice else plain(image)[None]
        network = self.network.to(self.device)
        parts: dict[str, list[torch.Tensor]] = {}
        with CAMExtractor(network, self.layers, self.method, self.target, **self.options) as extractor:
            for some in batch.float().split(self.batch_size):
                for name, maps in extractor(some.to(self.device))[1].items():
                    parts.setdefault(name, []).append(maps.cpu())
        results = []
        for found in parts.values():
            maps = torch.cat(found)
            if self.resize:
                size, mode = batch.shape[2:], MODES[self.spatial_dims]
                maps = nn.functional.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]
            if self.normalize:
                maps = min_max(maps, self.spatial_dims)
            results.append(like(maps.movedim(0, axis)[None] if by_slice else maps, image))
        return results


class ClassActivationMapd(DictionaryTransform, ThreadUnsafe, array=ClassActivationMap):
    """Dictionary version of :class:`ClassActivationMap`: adds ``<key>_cam_1``, ``<key>_cam_2``, ... per layer."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item |= {f"{key}_cam_{number}": maps for number, maps in enumerate(self.transform(item[key]), start=1)}
        return item
