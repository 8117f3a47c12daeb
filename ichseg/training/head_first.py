"""Train the last layers first: a pretrained body is not spoiled by a head that knows nothing yet."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn


class HeadFirst:
    """Ignite handler: everything but the head stays as it is for the first epochs.

    Args:
        network: the one that trains.
        head: name of the part that trains from the start.
        epochs: how many; 0: all of it from the start.
    """

    def __init__(self, network: nn.Module, head: str = "head", epochs: int = 0) -> None:
        self.body = [value for name, value in network.named_parameters() if not name.startswith(f"{head}.")]
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._switch)

    def _switch(self, engine: Engine) -> None:
        for parameter in self.body:
            parameter.requires_grad_(engine.state.epoch > self.epochs)
