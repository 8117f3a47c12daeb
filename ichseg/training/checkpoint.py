"""Keep the best weights, resume from the last epoch, stop when validation no longer improves."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ichseg.errors import IchsegError
from ichseg.io import atomic_path, write_text
from ichseg.networks import read_checkpoint
from ichseg.training.distributed import is_rank_zero

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Ignite handler for the trainer; put it after the ValidationHandler.

    After every epoch it writes ``checkpoint.pt`` (all that is needed to go on) and, when the validation metric
    is the best so far or with ``keep="last"``, ``model.pt`` (a plain state dict). Both appear whole or not at all. If
    ``checkpoint.pt`` exists when training starts, training goes on from it.

    Args:
        folder: where the two files go.
        network: its weights are kept.
        optimizer: its state is kept.
        evaluator: the validation engine whose metrics decide.
        metric: name of the deciding metric.
        mode: ``"min"`` or ``"max"``.
        patience: stop after this many epochs without a new best.
        scheduler: a learning-rate scheduler whose state is kept, if there is one.
        settings: what a user of the weights must know (size, window, ...); written beside them as ``model.json``.
        export: whose weights become ``model.pt``: a part of the network, or an average of it; all of it if None.
        keep: ``"best"`` by the metric, or ``"last"``: the metric is only watched, and nothing stops early.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluator: Engine,
        metric: str,
        mode: str = "max",
        patience: int = 20,
        scheduler: Any = None,
        settings: dict[str, Any] | None = None,
        export: nn.Module | None = None,
        keep: str = "best",
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, not {mode}")
        if keep not in ("best", "last"):
            raise ValueError(f"keep must be best or last, not {keep}")
        self.keep = keep
        self.folder = Path(folder)
        self.network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.export = self.network if export is None else export
        self.optimizer, self.scheduler = optimizer, scheduler
        self.evaluator, self.metric, self.sign = evaluator, metric, 1.0 if mode == "max" else -1.0
        self.patience, self.settings = patience, settings
        self.best = float("-inf")
        self.since_best = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def resume(self, engine: Engine) -> None:
        """Go on where ``checkpoint.pt`` says."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return
        state = read_checkpoint(path)
        for key, value in (self.settings or {}).items():
            if (before := (state.get("settings") or {}).get(key, value)) != value:
                raise IchsegError(f"{path}: trained with {key} {before}, now {value}; choose another output folder")
        try:
            self.network.load_state_dict(state["network"])
            self.export.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError, RuntimeError):
            raise IchsegError(
                f"{path}: checkpoint of another network or optimizer; remove it or choose another output folder"
            ) from None
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        # Other random numbers than those the first epochs had.
        torch.manual_seed(torch.initial_seed() % 2**32 + int(state["epoch"]))
        self.best, self.since_best = state["best"], state["since_best"]
        finished = self._patience_is_over()
        engine.state.epoch = int(engine.state.max_epochs or 0) if finished else int(state["epoch"])
        engine.state.iteration = engine.state.epoch * (engine.state.epoch_length or 0)
        logger.info("resumed %s after epoch %d%s", path, state["epoch"], " (finished)" if finished else "")

    def epoch_completed(self, engine: Engine) -> None:
        """Save the last, perhaps the best, perhaps stop."""
        score = self.sign * float(self.evaluator.state.metrics[self.metric])
        if math.isnan(score):
            raise IchsegError(
                f"{self.metric} is not a number after epoch {engine.state.epoch}: the training diverged, or the "
                "validation slices are all of one kind; choose other val_folds or another select_metric"
            )
        improved = score > self.best
        self.best = max(self.best, score)
        self.since_best = 0 if improved else self.since_best + 1
        if is_rank_zero():
            if improved or self.keep == "last":
                with atomic_path(self.folder / "model.pt") as temporary:
                    torch.save(self.export.state_dict(), temporary)
                if self.settings is not None:
                    write_text(self.folder / "model.json", json.dumps(self.settings) + "\n")
            with atomic_path(self.folder / "checkpoint.pt") as temporary:
                state = {
                    "network": self.network.state_dict(),
                    "model": self.export.state_dict(),  # a part of the network is stored once
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
                    "epoch": engine.state.epoch,
                    "best": self.best,
                    "since_best": self.since_best,
                    "settings": self.settings,
                }
                torch.save(state, temporary)
        if self._patience_is_over():
            logger.info("no better %s for %d epochs: stopping", self.metric, self.patience)
            engine.terminate()

    def _patience_is_over(self) -> bool:
        return self.keep == "best" and self.since_best >= self.patience
