"""Keep the best weights, resume from the last epoch, stop when validation no longer improves."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping
from monai.data.utils import set_rnd
from torch import nn

from ichseg.errors import IchsegError
from ichseg.io import atomic_path
from ichseg.networks import read_checkpoint, save_weights
from ichseg.processes import check_same_files, is_rank_zero
from ichseg.provenance import difference

logger = logging.getLogger(__name__)
CHECKPOINT, MODEL = "checkpoint.pt", "model.pt"
FORMAT = 2  # of checkpoints: raised when they keep or compare something else


class TrainingCheckpoint:
    """Ignite's ``Checkpoint`` (of the best weights, and of all that is needed to go on) and ``EarlyStopping`` as one.

    A handler for the trainer; put it after the ValidationHandler. After every epoch it writes ``checkpoint.pt`` and,
    when the validation metric is the best so far or with ``keep="last"``, ``model.pt`` (a state dict with settings, see
    :func:`ichseg.networks.save_weights`). Both appear whole or not at all. If ``checkpoint.pt`` exists when training
    starts, training goes on from it.

    Args:
        folder: where the two files go.
        network: its weights are kept.
        optimizer: its state is kept.
        evaluator: the validation engine whose metrics decide.
        metric: name of the deciding metric.
        settings: what a user of the weights must know: :class:`ichseg.networks.SegmenterSettings` or
            :class:`ichseg.networks.ClassifierSettings`.
        mode: ``"min"`` or ``"max"``.
        patience: stop after this many epochs without a new best.
        scheduler: a learning-rate scheduler whose state is kept, if there is one.
        export: whose weights become ``model.pt``: a part of the network, or an average of it; all of it if None.
        keep: ``"best"`` by the metric, or ``"last"``: the metric is only watched, and nothing stops early.
        made_of: what else the training depends on, plain values; one that differs is not resumed.
        start_counts: for the further training of finished weights: they are validated before the first epoch, and
            remain in ``model.pt`` unless an epoch is better.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluator: Engine,
        metric: str,
        settings: Any,
        mode: str = "max",
        patience: int = 20,
        scheduler: Any = None,
        export: nn.Module | None = None,
        keep: str = "best",
        made_of: Mapping[str, Any] | None = None,
        start_counts: bool = False,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be min or max, not {mode}")
        if keep not in ("best", "last"):
            raise ValueError(f"keep must be best or last, not {keep}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, not {patience}")
        self.folder, self.keep, self.settings, self.patience = Path(folder), keep, settings, patience
        self.start_counts = start_counts
        # Plain values only: a number of NumPy would make the file one that cannot be read safely. See also _write.
        self.made_of = json.loads(json.dumps({**asdict(settings), **(made_of or {})}, default=str))
        self.evaluator, self.metric, self.sign = evaluator, metric, 1.0 if mode == "max" else -1.0
        network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.parts: dict[str, Any] = {"network": network, "model": export or network, "optimizer": optimizer}
        if scheduler is not None:
            self.parts["scheduler"] = scheduler

    def attach(self, engine: Engine) -> None:
        score = self._score if self.keep == "best" else self._epoch
        model = Checkpoint({"model": self.parts["model"]}, self._export, filename_pattern=MODEL, score_function=score)
        self.parts["best"], self.engine = model, engine
        engine.add_event_handler(Events.STARTED, self._resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, model)
        if self.keep == "best":
            self.parts["stopping"] = self.stopping = EarlyStopping(self.patience, self._score, engine)
            self.stopping.logger = logging.getLogger(f"{__name__}.ignite")  # it is said in our words
            self.stopping.logger.setLevel(logging.CRITICAL)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.stopping)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._say_stopping)
        if self.start_counts:
            engine.add_event_handler(Events.STARTED, self._score_start)
        everything = Checkpoint(self.parts, self._write, filename_pattern=CHECKPOINT)
        engine.add_event_handler(Events.EPOCH_COMPLETED, everything)

    def _score_start(self, engine: Engine) -> None:
        if engine.state.epoch == 0:
            self.evaluator.run()
            logger.info("start  %s %.4g", self.metric, self.evaluator.state.metrics[self.metric])
            self.parts["best"](engine)
            if self.keep == "best":
                self.stopping(engine)

    def _say_stopping(self) -> None:
        if self.stopping.counter >= self.patience:
            logger.info("%s has not improved for %d epochs; stopping", self.metric, self.patience)

    def _epoch(self, engine: Engine) -> float:
        """Later is better; the metric is only watched. Not the iteration: epochs may get shorter when resumed."""
        self._score(engine)
        return float(engine.state.epoch)

    def _score(self, engine: Engine) -> float:
        if self.metric not in self.evaluator.state.metrics:
            raise IchsegError(f"{self.metric} was not measured after epoch {engine.state.epoch}: set val_interval to 1")
        score = self.sign * float(self.evaluator.state.metrics[self.metric])
        if math.isnan(score):
            raise IchsegError(
                f"{self.metric} is not a number after epoch {engine.state.epoch}: the training diverged, or the "
                "validation slices are all positive or all negative; choose other val_folds or select_metric"
            )
        return score

    def _export(self, state: Mapping[str, Any], name: str) -> None:
        if is_rank_zero():
            save_weights(self.folder / name, state, self.settings)

    def _write(self, state: Mapping[str, Any], name: str) -> None:
        if is_rank_zero():
            with atomic_path(self.folder / name) as temporary:
                told = {"epoch": self.engine.state.epoch, "settings": self.made_of, "format": FORMAT}
                plain = {key: _plain(state[key]) for key in ("optimizer", "scheduler") if key in state}
                torch.save({**state, **plain, **told}, temporary)

    def _resume(self, engine: Engine) -> None:
        """Go on where ``checkpoint.pt`` says."""
        path = self.folder / CHECKPOINT
        state = read_checkpoint(path) if path.is_file() else None
        check_same_files(path, None if state is None else state.get("epoch"))
        if state is None:
            return
        if state.get("format") != FORMAT:
            raise IchsegError(f"{path}: written by another version of ichseg; choose another output folder")
        if what := difference(state.get("settings", {}), self.made_of):
            raise IchsegError(f"{path}: trained with {what}; choose another output folder")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise IchsegError(
                f"{path}: checkpoint of a different network or optimizer; remove it or choose another output folder"
            ) from None
        # Other random numbers than those the first epochs had.
        seed = torch.initial_seed() % 2**32 + int(state["epoch"])
        torch.manual_seed(seed)
        if (data := getattr(engine.state.dataloader, "dataset", None)) is not None:
            set_rnd(data, seed)  # loaders with workers do it by themselves
        last = int(engine.state.max_epochs or 0)
        stopped = self.keep == "best" and self.stopping.counter >= self.patience
        finished = stopped or int(state["epoch"]) >= last
        engine.state.epoch = last if stopped else int(state["epoch"])
        engine.state.iteration = engine.state.epoch * (engine.state.epoch_length or 0)
        logger.info("resumed %s after epoch %d%s", path, state["epoch"], " (finished)" if finished else "")


def _plain(state: Any) -> Any:
    """The state of an optimizer or a schedule, with numbers of Python in the place of those of NumPy."""
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, Mapping):
        return {key: _plain(value) for key, value in state.items()}
    return type(state)(map(_plain, state)) if type(state) in (list, tuple) else state
