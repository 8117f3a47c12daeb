"""One line per epoch: on the screen, in a CSV that survives an interruption, and in TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch.utils.tensorboard import SummaryWriter

from ichseg.io import write_text
from ichseg.processes import is_rank_zero
from ichseg.progress import LINE_SECONDS

logger = logging.getLogger(__name__)


class EpochHistory:
    """Ignite handler for the trainer; put it after the ValidationHandler.

    Writes ``history.csv`` and TensorBoard scalars: epoch, seconds, learning rate, mean training loss, and every
    validation metric.

    Args:
        folder: where ``history.csv`` goes.
        evaluator: the validation engine.
        optimizer: its first group tells the learning rate.
    """

    def __init__(self, folder: str | Path, evaluator: Engine, optimizer) -> None:
        self.path = Path(folder) / "history.csv"
        self.evaluator, self.optimizer = evaluator, optimizer
        self.losses: list[torch.Tensor] = []
        self.started = 0.0
        self.board: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.losses, self.started = [], time.perf_counter()

    def _iteration(self, engine: Engine) -> None:
        # A copy, for graphs write the next loss to the same place; read once per epoch, for reading waits for a GPU.
        self.losses.append(torch.as_tensor(cast(dict, engine.state.output)["loss"]).detach().clone())

    def _write(self, engine: Engine) -> None:
        losses = torch.stack(self.losses).tolist() if self.losses else []
        row = {
            "epoch": engine.state.epoch,
            "seconds": round(time.perf_counter() - self.started, 1),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": round(sum(losses) / max(len(losses), 1), 5),
            **{name: round(float(value), 5) for name, value in sorted(self.evaluator.state.metrics.items())},
        }
        if not is_rank_zero():
            return
        logger.info("%s", "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        self._append(row)
        if self.board is None:
            self.board = SummaryWriter(str(self.path.parent))
        for name, value in row.items():
            self.board.add_scalar(name, value, engine.state.epoch)
        self.board.flush()

    def _append(self, row: dict) -> None:
        """Write the row in place of those of epochs that an interruption has undone."""
        rows: list[dict] = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [r for r in csv.DictReader(file) if int(r["epoch"]) < row["epoch"]]
        table = io.StringIO()
        writer = csv.DictWriter(table, list(row), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*rows, row])
        write_text(self.path, table.getvalue())


class EpochBar(ProgressBar):
    """Ignite's progress bar on a terminal, now and then a line in a log; in the first of the processes only."""

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> Any:
        """See ``ignite.handlers.ProgressBar``."""
        if not is_rank_zero():
            return None
        if sys.stderr.isatty():
            return super().attach(engine, *args, **kwargs)
        self.next = time.monotonic() + LINE_SECONDS
        return engine.add_event_handler(Events.ITERATION_COMPLETED, self._line)

    def _line(self, engine: Engine) -> None:
        if time.monotonic() > self.next:
            self.next = time.monotonic() + LINE_SECONDS
            length = engine.state.epoch_length or 1
            done = (engine.state.iteration - 1) % length + 1
            logger.info("epoch %d of %s: %d of %d batches", engine.state.epoch, engine.state.max_epochs, done, length)


class PrintMetrics:
    """Handler for an evaluation: print its metrics, one per line, when it is done."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for name, value in sorted(engine.state.metrics.items()):
            sys.stdout.write(f"{name}: {float(value):.4f}\n")
