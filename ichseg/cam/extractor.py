"""Maps of several layers of any classifier from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ichseg.cam.component import principal_component
from ichseg.cam.maps import grad_cam, grad_cam_plus_plus, layer_cam, min_max
from ichseg.cam.shallow import shallow_feature_cam


def _shallow_feature(activations: Tensor, gradients: Tensor) -> Tensor:
    return shallow_feature_cam(min_max(layer_cam(activations, gradients)), principal_component(activations))


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "layer_cam": layer_cam,
    "grad_cam": grad_cam,
    "grad_cam++": grad_cam_plus_plus,
    "shallow_feature_cam": _shallow_feature,
}


class CAMExtractor:
    """Context manager that turns a classifier into a source of class activation maps.

    Inside the ``with`` block the network is in evaluation mode, its weights are frozen and its in-place
    activations are not in place; all of it, and the absence of hooks, is restored afterwards::

        with CAMExtractor(model, ["layer1", "layer2"]) as extractor:
            logits, maps = extractor(images)          # maps["layer1"]: (B, h, w)

    The gradient is that of the logit of class ``target`` summed over the batch, which in evaluation mode leaves
    every image its own gradient. It works under a caller's ``no_grad``. Maps are raw: the caller normalizes.
    (``"shallow_feature_cam"`` is normalized by its definition.)

    Args:
        model: any network (B, ...) -> logits (B, classes).
        layers: module names or modules.
        method: ``"layer_cam"``, ``"grad_cam"``, ``"grad_cam++"``, ``"shallow_feature_cam"``, or a function of
            (activations, gradients).
        target: class whose logit is explained; 1 is hemorrhage, whatever the network predicts (decision D6).
        autocast: run the forward pass in this lower precision, e.g. ``torch.bfloat16``; maps are always made in
            float32, but gradients that went through bfloat16 layers differ a little.

    Raises:
        ValueError: unknown method or layer; a layer that gives no gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str | nn.Module],
        method: str | Callable[[Tensor, Tensor], Tensor] = "layer_cam",
        target: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        if isinstance(method, str) and method not in METHODS:
            raise ValueError(f"method '{method}' is unknown; choose one of {', '.join(METHODS)}")
        self.model, self.target, self.autocast = model, target, autocast
        self.method = METHODS[method] if isinstance(method, str) else method
        self.modules = _find(model, layers)
        self.activations: dict[str, Tensor] = {}
        self._restore: list[Callable[[], Any]] = []

    def __enter__(self) -> CAMExtractor:
        for module in self.model.modules():
            self._remember(module, "training", False)
            if getattr(module, "inplace", False) is True:
                self._remember(module, "inplace", False)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self._restore.append(partial(parameter.requires_grad_, True))
                parameter.requires_grad_(False)
        for name, module in self.modules.items():
            self._restore.append(module.register_forward_hook(self._hook(name)).remove)
        return self

    def __exit__(self, *error: object) -> None:
        while self._restore:
            self._restore.pop()()
        self.activations = {}

    def __call__(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, ...) -> logits (B, classes) and, per layer, maps (B, h, w), both detached."""
        if not self._restore:
            raise ValueError("use the extractor in a 'with' block, so that its hooks are removed afterwards")
        self.activations = {}
        with torch.enable_grad():
            with torch.autocast(images.device.type, self.autocast, enabled=self.autocast is not None):
                logits = self.model(images.detach()).float()
            silent = [name for name in self.modules if name not in self.activations]
            if silent:
                raise ValueError(f"layer '{silent[0]}' was not run by the network's forward pass")
            if not logits.requires_grad:
                raise ValueError(f"no gradient flows from layer '{next(iter(self.modules))}' to the logits")
            gradients = torch.autograd.grad(
                logits[:, self.target].sum(), list(self.activations.values()), allow_unused=True
            )
        maps = {}
        with torch.no_grad():
            for (name, activation), gradient in zip(self.activations.items(), gradients, strict=True):
                if gradient is None:
                    raise ValueError(f"no gradient flows from layer '{name}' to the logits")
                maps[name] = self.method(activation.detach().float(), gradient.float())
        self.activations = {}
        return logits.detach(), {name: maps[name] for name in self.modules}

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(f"layer '{name}' returns {type(output).__name__}, not one tensor")
            # With frozen weights the graph starts at the first hooked layer: nothing before it is kept.
            tracked = output if output.requires_grad else output.detach().requires_grad_(True)
            self.activations[name] = tracked
            # A copy goes on, so that an in-place operation after the layer cannot change what is kept.
            return tracked.clone()

        return hook

    def _remember(self, module: nn.Module, attribute: str, value: bool) -> None:
        before = getattr(module, attribute)
        self._restore.append(lambda: setattr(module, attribute, before))
        setattr(module, attribute, value)


def _find(model: nn.Module, layers: Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    if not layers:
        raise ValueError("name at least one layer")
    named = dict(model.named_modules())
    names = {id(module): name for name, module in named.items()}
    found = {}
    for layer in layers:
        name = layer if isinstance(layer, str) else names.get(id(layer), "")
        if name not in named or not name:
            top = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"layer '{layer}' is not in {type(model).__name__}; its top-level layers are: {top}")
        found[name] = named[name]
    return found
