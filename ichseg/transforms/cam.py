"""Activation maps of a volume's positive slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import nn

from ichseg.cam import CAMExtractor, layer_cam, min_max, principal_component, shallow_feature_cam
from ichseg.context import MemoryBank, amplify, positive_runs
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class ShallowFeatureCAM(Transform):
    """Maps of the shallow layers of one or more classifiers, averaged over the classifiers.

    Per slice, model and layer: LayerCAM of the hemorrhage logit, scaled to [0, 1], gated by the first
    principal component of the layer's features; the first layer is amplified by ``tanh``; then the mean over
    models. Only slices whose mean probability reaches ``gate`` are given maps; the
    others have maps of zeros, exactly as if they had been cut out.

    Args:
        networks: slice classifiers, or one module that holds them as ``networks``.
        layers: module paths of layer 1 and layer 2, the same for all networks; or one list per network.
        gate: mean probability of hemorrhage a slice needs (decision D11).
        component_mode: ``"spatial"`` or ``"channel"``, see :func:`ichseg.cam.principal_component`.
        combine: ``"gated"``, ``"additive"`` or ``"literal"``, see :func:`ichseg.cam.shallow_feature_cam`.
        amplify_scale: lambda of the first layer's tanh; 0 leaves it out.
        batch_size: slices per pass.
        device: where the networks run.
        precision: ``"fp32"`` or ``"bf16"`` for the networks' forward passes; bf16 changes the maps a little.
    """

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        layers: Sequence[str] | Sequence[Sequence[str]] = ("layer1", "layer2"),
        gate: float = 0.5,
        component_mode: str = "spatial",
        combine: str = "gated",
        amplify_scale: float = 2.0,
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        if isinstance(networks, nn.Module):
            networks = list(getattr(networks, "networks", [networks]))
        self.networks = [network.to(torch.device(device)).eval() for network in networks]
        self.layers = [list(layers)] * len(self.networks) if isinstance(layers[0], str) else [list(x) for x in layers]
        self.gate, self.component_mode, self.combine = gate, component_mode, combine
        self.amplify_scale, self.batch_size, self.device = amplify_scale, batch_size, torch.device(device)
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, not '{precision}'")
        self.autocast = torch.bfloat16 if precision == "bf16" else None

    def __call__(
        self, volume: torch.Tensor, probabilities: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(1, X, Y, Z) in [0, 1], windowed and resized as in training.

        Args:
            volume: the scan.
            probabilities: (slices,) mean probability of hemorrhage if known; computed otherwise.

        Returns:
            one volume of maps (1, ...) per layer at the layer's own size, and (slices,) the probabilities.
        """
        axis = volume_slice_axis(volume)
        slices = plain(volume).movedim(1 + axis, 0)  # (n, 1, H, W)
        if probabilities is None:
            probabilities = self.score(slices)
        chosen = [i for i, p in enumerate(probabilities) if float(p) >= self.gate]
        bank = MemoryBank()
        for model, (network, layers) in enumerate(zip(self.networks, self.layers, strict=True)):
            self._fill(bank, model, network, layers, slices, chosen)
        maps = []
        for number in range(len(self.layers[0])):
            stack: torch.Tensor | None = None
            for start, stop in positive_runs([i in set(chosen) for i in range(len(slices))]):
                run = bank.ensembled(start, stop, number)
                stack = run.new_zeros(len(slices), *run.shape[1:]) if stack is None else stack
                stack[start:stop] = run
            if stack is None:  # no positive slice: the size of the maps does not matter
                stack = slices.new_zeros(len(slices), 1, 1)
            maps.append(like(stack.movedim(0, axis)[None].cpu(), volume))
        return maps, probabilities

    def score(self, slices: torch.Tensor) -> torch.Tensor:
        """(n, 1, H, W) -> (n,) mean softmax probability of hemorrhage."""
        scores = []
        cast = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), cast:
            for start in range(0, len(slices), self.batch_size):
                batch = slices[start : start + self.batch_size].to(self.device)
                scores.append(torch.stack([n(batch).float().softmax(1)[:, 1] for n in self.networks]).mean(0).cpu())
        return torch.cat(scores)

    def _fill(self, bank, model, network, layers, slices, chosen) -> None:
        def gated(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
            cam = min_max(layer_cam(activations, gradients))
            component = principal_component(activations, self.component_mode)
            return shallow_feature_cam(cam, component, self.combine)

        with CAMExtractor(network, layers, gated, autocast=self.autocast) as extractor:
            for start in range(0, len(chosen), self.batch_size):
                numbers = chosen[start : start + self.batch_size]
                _, found = extractor(slices[numbers].to(self.device))
                for order, name in enumerate(layers):
                    maps = found[name]
                    if order == 0 and self.amplify_scale:
                        maps = amplify(maps, self.amplify_scale)
                    for number, one in zip(numbers, maps, strict=True):
                        bank.put(number, order, model, one)


class ShallowFeatureCAMd(MapTransform):
    """Dictionary version of :class:`ShallowFeatureCAM`.

    Adds ``<key>_cam_1``, ``<key>_cam_2`` (the maps of the layers) and ``<key>_probability`` (slices,).

    Args:
        keys: the windowed volume(s).
        probability_key: where the slices' probabilities already are; None computes them.
        networks, layers, ...: as in :class:`ShallowFeatureCAM`.
    """

    def __init__(self, keys: KeysCollection, networks, probability_key: str | None = None, **options: Any) -> None:
        super().__init__(keys)
        self.probability_key = probability_key
        self.cam = ShallowFeatureCAM(networks, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            known = None if self.probability_key is None else torch.as_tensor(item[self.probability_key]).flatten()
            maps, item[f"{key}_probability"] = self.cam(item[key], known)
            for number, volume in enumerate(maps, start=1):
                item[f"{key}_cam_{number}"] = volume
        return item
