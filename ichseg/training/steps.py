"""What happens at every step: the size of the gradient, and of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn


class AlsoHandlers:
    """Handlers that other parts of a config refer to as well; MONAI's checks take no bare references among handlers."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)

    def attach(self, engine: Engine) -> None:
        for part in self.parts:
            part.attach(engine)


class ClipGradients:
    """Ignite handler for MONAI's trainer: the norm of all gradients together is at most ``norm``."""

    def __init__(self, network: nn.Module, norm: float = 5.0) -> None:
        self.network, self.norm = network, norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.norm)


def poly_decay(epochs: int, power: float = 0.9) -> Callable[[int], float]:
    """Factor of the learning rate: ``(1 - epoch / epochs) ** power``; a resumed run may get more epochs."""
    return lambda epoch: max(1 - epoch / epochs, 0) ** power


def warm_cosine(steps: int, warm: float = 0.1) -> Callable[[int], float]:
    """Factor of the learning rate: up along a line over the first steps, then down to 0 along a cosine.

    MONAI's WarmupCosineSchedule keeps its length in the checkpoint, so that a resumed run could not get more epochs.

    Args:
        steps: of the whole training.
        warm: share of them that goes up.
    """
    up = max(1, round(warm * steps))

    def factor(step: int) -> float:
        if step < up:
            return (step + 1) / (up + 1)
        return 0.5 * (1 + math.cos(math.pi * min((step - up) / max(steps - up, 1), 1.0)))

    return factor
