"""Maps of several layers of any classifier: hooks while they are needed, and no trace of them afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ichseg.cam.methods import METHODS, GradientMethod, Maps
from ichseg.cam.reshape import Reshape, checked_layout, named_reshape
from ichseg.cam.sole_use import sole_use


class CAMExtractor:
    """Context manager that turns a classifier into a source of class activation maps.

    Inside the ``with`` block the network is in evaluation mode, its weights are frozen and its in-place
    activations are not in place; all of it, and the absence of hooks, is restored afterwards. Threads that share a
    network take turns. A compiled network runs uncompiled meanwhile, since compiled code calls no hooks::

        with CAMExtractor(model, ["layer1", "layer2"]) as extractor:
            logits, maps = extractor(images)          # maps["layer1"]: (B, h, w)

    All layers share one forward and one backward pass. The gradient is that of the logit of class ``target`` summed
    over the batch, which in evaluation mode leaves every image its own gradient. It works under a caller's
    ``no_grad``. Maps are raw: the caller normalizes. (``"shallow_feature_cam"`` is normalized by its definition.)

    Args:
        model: any network (B, C, ...) -> logits (B, classes), 2-D or 3-D.
        layers: module names or modules.
        method: a name of :data:`METHODS` (``"cam"``, ``"grad_cam"``, ``"grad_cam++"``, ``"smooth_grad_cam++"``,
            ``"score_cam"``, ``"layer_cam"``, ``"shallow_feature_cam"``), or a function of (activations, gradients).
        target: class whose logit is explained; 1 is hemorrhage, whatever the network predicts (decision D6: the
            paper maps hemorrhage); ``"predicted"`` explains each image's own largest logit.
        autocast: run the forward pass in this lower precision, e.g. ``torch.bfloat16``; maps are always made in
            float32, but gradients that went through bfloat16 layers differ a little.
        reshape: for layers whose output is not (B, K, ...): ``"tokens"`` for (B, N, K) of a transformer, with or
            without tokens for the class in front; ``"channels_last"`` for (B, ..., K); a function from the output to
            (B, K, ...); or a dictionary with one of these per layer name. Without it such outputs are refused.
        **options: of the method: ``samples``, ``noise``, ``seed`` of ``"smooth_grad_cam++"``; ``batch_size`` of
            ``"score_cam"``.

    Raises:
        ValueError: unknown method, option or layer; a layer that gives no gradient, was not run, or whose output has
            not the axes (B, K, ...); an output that is not finite logits (B, classes) with the target among them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str | nn.Module],
        method: str | Callable[[Tensor, Tensor], Tensor] = "layer_cam",
        target: int | str = 1,
        autocast: torch.dtype | None = None,
        reshape: Reshape | Mapping[str, Reshape] | None = None,
        **options: Any,
    ) -> None:
        self.target, self.autocast = target, autocast
        self.model = model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        if isinstance(target, str) and target != "predicted":
            raise ValueError(f"target must be a class index or 'predicted', not '{target}'")
        self.method = _method(method, options)
        self.modules = _find(model, layers)
        each = reshape if isinstance(reshape, Mapping) else dict.fromkeys(self.modules, reshape)
        if unknown := sorted(set(each) - set(self.modules)):
            raise ValueError(f"reshape names '{unknown[0]}', which is none of the layers")
        self.reshape = {name: named_reshape(one) for name, one in each.items() if one is not None}
        self._local = threading.local()  # several threads may look at once, each at its own images
        self._restore: list[Callable[[], Any]] = []
        self._size: tuple[int, ...] = ()
        self.sizes: dict[str, tuple[int, ...]] = {}  # of the maps of each layer, from the last forward pass

    @property
    def activations(self) -> dict[str, Tensor]:
        """What the hooks saw in the last forward pass of this thread."""
        found: dict[str, Tensor] = getattr(self._local, "activations", {})
        return found

    @activations.setter
    def activations(self, found: dict[str, Tensor]) -> None:
        self._local.activations = found

    def __enter__(self) -> CAMExtractor:
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _prepare(self) -> None:
        mode = evaluation_mode(self.model)
        mode.__enter__()
        self._restore.append(partial(mode.__exit__, None, None, None))
        for module in self.model.modules():
            if getattr(module, "inplace", False) is True:
                self._remember(module, "inplace", False)
            if getattr(module, "_compiled_call_impl", None) is not None:
                self._remember(module, "_compiled_call_impl", None)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                self._restore.append(partial(parameter.requires_grad_, True))
                parameter.requires_grad_(False)
        for name, module in self.modules.items():
            self._restore.append(module.register_forward_hook(self._hook(name)).remove)

    def __exit__(self, *error: object) -> None:
        restore, self._restore, self.activations = self._restore, [], {}
        with ExitStack() as all_of_it:  # the last change first, and the others even if one cannot be undone
            for undo in restore:
                all_of_it.callback(undo)

    def __call__(self, images: Tensor) -> tuple[Tensor, Maps]:
        """(B, C, ...) -> logits (B, classes) and, per layer, maps (B, h, w) or (B, d, h, w), all detached."""
        logits, maps = self.look(images)
        return logits, maps()

    def look(self, images: Tensor) -> tuple[Tensor, Callable[[], Maps]]:
        """The forward pass alone: logits, and a function that makes the maps, if they are wanted after all.

        What the backward pass needs is kept until the function is called or dropped.
        """
        if not self._restore:
            raise ValueError("use the extractor in a 'with' block, so that its hooks are removed")
        with torch.inference_mode(False):  # a caller's inference mode would forbid gradients; a copy is free of it
            logits, finish = self.method(self, images.detach().clone() if images.is_inference() else images.detach())

        def maps() -> Maps:
            with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
                made = finish()
            return {name: made[name] for name in self.modules}

        return logits, maps

    def forward(self, images: Tensor) -> tuple[Tensor, Maps]:
        """Logits and activations (B, K, ...) per layer, float32 and detached."""
        with torch.no_grad():
            logits = self._run(images)
        activations, self.activations = self.activations, {}
        return logits, {name: self._shaped(name, activation.detach()) for name, activation in activations.items()}

    def gradients(self, images: Tensor, target: Tensor | None = None) -> tuple[Tensor, Callable[[], tuple[Maps, Maps]]]:
        """Logits, and a function that gives activations and gradients of the target's logit per layer.

        All float32 and detached. ``target`` (B,) fixes the class, e.g. to that of the clean image.
        """
        with torch.enable_grad():
            logits = self._run(images)
            if not logits.requires_grad:
                raise ValueError(f"no gradient flows from layer '{next(iter(self.modules))}' to the logits")
            score = self.score(logits, target).sum()
        activations, self.activations = self.activations, {}

        def backward() -> tuple[Maps, Maps]:
            found = torch.autograd.grad(score, list(activations.values()), allow_unused=True)
            gradients = {}
            for name, gradient in zip(activations, found, strict=True):
                if gradient is None:
                    raise ValueError(f"no gradient flows from layer '{name}' to the logits")
                gradients[name] = self._shaped(name, gradient)
            return {name: self._shaped(name, one.detach()) for name, one in activations.items()}, gradients

        return logits.detach(), backward

    def _shaped(self, name: str, values: Tensor) -> Tensor:
        """Activations or gradients of a layer as (B, K, ...) in float32."""
        values = values.float()
        if name not in self.reshape:
            return values
        shaped = self.reshape[name](values, self._size)
        if shaped.ndim != 2 + len(self._size):
            raise ValueError(
                f"reshape gives layer '{name}' shape {tuple(shaped.shape)}; expected (B, K, {len(self._size)} axes)"
            )
        return shaped

    def target_of(self, logits: Tensor) -> Tensor:
        """(B,) index of the class that is explained."""
        if self.target == "predicted":
            return logits.detach().argmax(dim=1)
        return torch.full((len(logits),), int(self.target), device=logits.device)

    def score(self, logits: Tensor, target: Tensor | None = None) -> Tensor:
        """(B,) the logit that is explained."""
        return logits.gather(1, (self.target_of(logits) if target is None else target)[:, None])[:, 0]

    def _run(self, images: Tensor) -> Tensor:
        self.activations, self._size = {}, tuple(images.shape[2:])
        with torch.autocast(images.device.type, self.autocast, enabled=self.autocast is not None):
            logits = self.model(images)
        silent = [name for name in self.modules if name not in self.activations]
        if silent:
            raise ValueError(f"layer '{silent[0]}' was not run by the network's forward pass")
        for name, module in self.modules.items():
            if name not in self.reshape:
                found = tuple(self.activations[name].shape)
                checked_layout(name, module, found, self._size)
                self.sizes[name] = found[2:]
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the network must return logits (B, classes), not {shape}")
        if self.target != "predicted" and not 0 <= int(self.target) < logits.shape[1]:
            raise ValueError(
                f"target {self.target} is not among the network's classes: it returns logits {tuple(logits.shape)}, "
                "and (B, classes) with one logit per class, background first, is expected"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError("the network's logits are not finite")
        return logits.float()

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(f"layer '{name}' returns {type(output).__name__}, not a tensor")
            if output.ndim < 3:
                raise ValueError(f"layer '{name}' returns shape {tuple(output.shape)}, which has no spatial dimensions")
            if not torch.is_grad_enabled():
                self.activations[name] = output.clone()
                return output
            # With frozen weights the graph starts at the first hooked layer: nothing before it is kept.
            tracked = output if output.requires_grad else output.detach().requires_grad_(True)
            self.activations[name] = tracked
            # A copy goes on, so that an in-place operation after the layer cannot change what is kept.
            return tracked.clone()

        return hook

    def _remember(self, module: nn.Module, attribute: str, value: bool | None) -> None:
        before = getattr(module, attribute)
        self._restore.append(lambda: setattr(module, attribute, before))
        setattr(module, attribute, value)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Every module in evaluation mode inside the block, and as it was afterwards; other threads wait."""
    with sole_use(model):
        before = {module: module.training for module in model.modules()}
        try:
            yield model.eval()
        finally:
            for module, training in before.items():
                module.training = training


def _method(method: str | Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not isinstance(method, str):
        if options:
            raise ValueError(f"a function given as method takes no options: {', '.join(options)}")
        return GradientMethod(method)
    if method not in METHODS:
        raise ValueError(f"method '{method}' is unknown; choose one of {', '.join(METHODS)}")
    try:
        made: Callable[..., Any] = METHODS[method](**options)
        return made
    except TypeError:
        raise ValueError(f"method '{method}' has no option {', '.join(options)}") from None


def _find(model: nn.Module, layers: Sequence[str | nn.Module]) -> dict[str, nn.Module]:
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    if not layers:
        raise ValueError("name at least one layer")
    named = dict(model.named_modules(remove_duplicate=False))
    names = {id(module): name for name, module in named.items()}
    found = {}
    for layer in layers:
        name = layer.removeprefix("_orig_mod.") if isinstance(layer, str) else names.get(id(layer), "")
        if name not in named or not name:
            top = ", ".join(child for child, _ in model.named_children())
            raise ValueError(f"layer '{layer}' is not in {type(model).__name__}; its top-level layers are: {top}")
        found[name] = named[name]
    return found
