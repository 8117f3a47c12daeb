"""How each CAM method queries a network: one short class per method, on top of the formulas in ``maps``.

A method gets a :class:`Probe` (one network with hooks on some layers) and the images. It returns the logits, and a
function that makes one map per layer: what costs more than the forward pass waits until the maps are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ichseg.cam.component import principal_component
from ichseg.cam.maps import (
    class_activation_map,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    min_max,
    score_cam,
    smooth_grad_cam_plus_plus,
)
from ichseg.cam.shallow import shallow_feature_cam

Maps = dict[str, Tensor]
Formula = Callable[[Tensor, Tensor], Tensor]
Answer = tuple[Tensor, Callable[[], Maps]]


class Probe(Protocol):
    """What a method may ask of the extractor."""

    model: nn.Module

    def forward(self, images: Tensor) -> tuple[Tensor, Maps]:
        """Logits (B, classes) and activations (B, K, ...) per layer, without gradients."""

    def gradients(self, images: Tensor, target: Tensor | None = None) -> tuple[Tensor, Callable[[], tuple[Maps, Maps]]]:
        """Logits, and what gives activations and gradients of the target's logit; ``target`` (B,) fixes the class."""

    def target_of(self, logits: Tensor) -> Tensor:
        """(B,) index of the class that is explained."""


class GradientMethod:
    """One forward and one backward pass; ``formula(activations, gradients)`` makes the map."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula

    def __call__(self, probe: Probe, images: Tensor) -> Answer:
        logits, backward = probe.gradients(images)

        def maps() -> Maps:
            activations, gradients = backward()
            return {name: self.formula(activations[name], gradients[name]) for name in activations}

        return logits, maps


class SmoothGradCAMPlusPlus:
    """Grad-CAM++ over noisy copies of the input, see :func:`ichseg.cam.smooth_grad_cam_plus_plus`.

    Args:
        samples: noisy copies.
        noise: standard deviation of the Gaussian noise, as a share of each image's own range.
        seed: of the noise; the same for every call, so that equal images give equal maps.
    """

    def __init__(self, samples: int = 4, noise: float = 0.1, seed: int = 0) -> None:
        if samples < 1 or noise < 0:
            raise ValueError(f"smooth_grad_cam++ needs samples >= 1 and noise >= 0, not {samples} and {noise}")
        self.samples, self.noise, self.seed = samples, noise, seed

    def __call__(self, probe: Probe, images: Tensor) -> Answer:
        logits, activations = probe.forward(images)
        target = probe.target_of(logits)  # of the clean image: noise must not change the question

        def maps() -> Maps:
            axes = tuple(range(1, images.ndim))
            spread = self.noise * (images.amax(dim=axes, keepdim=True) - images.amin(dim=axes, keepdim=True))
            # One pattern for all images, drawn on the CPU: neither batch mates nor the device change a map.
            generator = torch.Generator().manual_seed(self.seed)
            found: list[Maps] = []
            for _ in range(self.samples):
                pattern = torch.randn(images.shape[1:], generator=generator).to(images)
                found.append(probe.gradients(images + spread * pattern, target)[1]()[1])
            return {
                name: smooth_grad_cam_plus_plus(a, torch.stack([g[name] for g in found]))
                for name, a in activations.items()
            }

        return logits, maps


class ScoreCAM:
    """Gradient free: the input seen through every channel, see :func:`ichseg.cam.score_cam`.

    One forward pass per channel: expensive for wide layers. A constant channel hides the whole image.

    Args:
        batch_size: masked images per pass.
    """

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def __call__(self, probe: Probe, images: Tensor) -> Answer:
        logits, activations = probe.forward(images)
        target = probe.target_of(logits)
        return logits, lambda: {
            name: torch.cat(
                [
                    score_cam(one[None], self._scores(probe, image, one, int(index))[None])
                    for image, one, index in zip(images, activation, target, strict=True)
                ]
            )
            for name, activation in activations.items()
        }

    def _scores(self, probe: Probe, image: Tensor, channels: Tensor, target: int) -> Tensor:
        """(C, ...), (K, ...) -> (K,) logits."""
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[channels.ndim - 1]
        scores = []
        for part in channels.split(self.batch_size):
            masks = min_max(part, part.ndim - 1)[:, None]
            masks = nn.functional.interpolate(masks, image.shape[1:], mode=mode, align_corners=False)
            scores.append(probe.forward(image[None] * masks)[0][:, target])
        return torch.cat(scores)


class LinearWeights:
    """CAM: the weights of the linear layer behind global average pooling, see :func:`ichseg.cam.class_activation_map`.

    Raises (when called):
        ValueError: the network does not average the layer and hand it to one last linear layer.
    """

    def __call__(self, probe: Probe, images: Tensor) -> Answer:
        linear = [module for module in probe.model.modules() if isinstance(module, nn.Linear)]
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any) -> None:
            seen.append(inputs[0].detach().float())

        hook = linear[-1].register_forward_pre_hook(keep) if linear else None
        try:
            logits, activations = probe.forward(images)
        finally:
            if hook is not None:
                hook.remove()
        target = probe.target_of(logits)
        maps = {}
        for name, activation in activations.items():
            pooled = activation.flatten(2).mean(dim=2)
            if not seen or seen[-1].shape != pooled.shape or not torch.allclose(seen[-1], pooled, rtol=1e-2, atol=1e-4):
                raise ValueError(
                    f"method 'cam' needs a network whose last linear layer takes the spatial mean of layer '{name}'; "
                    f"{type(probe.model).__name__} is not one; use 'grad_cam' instead"
                )
            weights = linear[-1].weight.detach().float()
            maps[name] = torch.stack(
                [class_activation_map(a[None], weights[i])[0] for a, i in zip(activation, target, strict=True)]
            )
            bias = 0.0 if linear[-1].bias is None else linear[-1].bias.detach().float()[target]
            explained = maps[name].flatten(1).mean(dim=1) + bias
            if not torch.allclose(explained, logits.gather(1, target[:, None])[:, 0], rtol=1e-2, atol=1e-3):
                raise ValueError(f"{type(probe.model).__name__}: its last linear layer does not produce the logits")
        return logits, lambda: maps


def _shallow_feature(activations: Tensor, gradients: Tensor) -> Tensor:
    cam = min_max(layer_cam(activations, gradients), activations.ndim - 2)
    return shallow_feature_cam(cam, principal_component(activations))


# Name -> maker; options of a method are the maker's arguments.
METHODS: dict[str, Callable[..., Any]] = {
    "cam": LinearWeights,
    "grad_cam": lambda: GradientMethod(grad_cam),
    "grad_cam++": lambda: GradientMethod(grad_cam_plus_plus),
    "smooth_grad_cam++": SmoothGradCAMPlusPlus,
    "score_cam": ScoreCAM,
    "layer_cam": lambda: GradientMethod(layer_cam),
    "shallow_feature_cam": lambda: GradientMethod(_shallow_feature),
}
