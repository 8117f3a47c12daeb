"""Training passes recorded once and replayed: on a GPU, starting small kernels takes longer than running them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ichseg.inference import PrecisionInferer

logger = logging.getLogger(__name__)


class GraphedInferer(PrecisionInferer):
    """Inferer of a trainer: the network's forward and backward passes as CUDA graphs, its output in float32.

    The first training batch fixes the shape; batches of another one, networks in evaluation mode, other devices and
    networks spread over processes run as :class:`ichseg.inference.PrecisionInferer` runs them. Gradients are the same.
    See ``torch.cuda.make_graphed_callables`` for what a network must not do: its forward pass may neither depend on
    values nor have hooks.

    Args:
        precision: ``"fp32"`` or ``"bf16"``.
        enabled: False records nothing.
    """

    def __init__(self, precision: str = "fp32", enabled: bool = True) -> None:
        super().__init__(precision)
        self.enabled = enabled
        self.shape: torch.Size | None = None

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if not isinstance(network, nn.Module) or not self._trains(inputs, network):
            return super().__call__(inputs, network, *args, **kwargs)
        if self.shape is None:
            self.shape = inputs.shape
            # Recording runs the network a few times: its statistics and random numbers are those of before.
            device = inputs.device
            before, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.cuda.get_rng_state(device)
            # Casts of weights belong into the graph, and the stream that is recorded to the network's GPU.
            with torch.cuda.device(device), self.lowered(device.type, cache_enabled=False):
                torch.cuda.make_graphed_callables(network, (inputs.clone(),), allow_unused_input=True)
            network.load_state_dict(before)
            torch.cuda.set_rng_state(random, device)
            logger.info("training with CUDA graphs")
        if inputs.shape != self.shape:
            return super().__call__(inputs, lambda x: type(network).forward(network, x))  # as it was before
        return super().__call__(inputs, network)

    def _trains(self, inputs: torch.Tensor, network: nn.Module) -> bool:
        alone = not isinstance(network, nn.parallel.DistributedDataParallel)
        return self.enabled and inputs.is_cuda and torch.is_grad_enabled() and alone and network.training
