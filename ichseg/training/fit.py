"""Training of networks that have no bundle: MONAI's trainer with our handlers, for the systems compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.metrics import Loss
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn

from ichseg.errors import IchsegError
from ichseg.networks import read_settings
from ichseg.provenance import describe, network_hash
from ichseg.training.checkpoint import MODEL, TrainingCheckpoint
from ichseg.training.history import EpochBar, EpochHistory
from ichseg.training.steps import poly_decay

Batch = dict[str, Any]


@dataclass(frozen=True)
class FitSettings:
    """What travels with the weights.

    Attributes:
        method: whose network it is.
        size: pixels per side.
        window_level, window_width: HU.
        start: hash of the classifier that the training starts from.
        maps: which maps taught it; empty: those of the method.
    """

    method: str
    size: int
    window_level: float
    window_width: float
    start: str = ""
    maps: str = ""


def checked_start(weights: str | Path | None, network: nn.Module) -> None:
    """Weights of :func:`fit` go with the classifier they were trained with, and with no other.

    Raises:
        IchsegError: they do not.
    """
    if weights is None:
        return
    start = read_settings(weights, FitSettings).start
    if start and start != network_hash(network):
        raise IchsegError(f"{weights}: trained with another classifier than the one given; train it again")


def fit(
    network: nn.Module,
    loss: Callable[[Any, Batch], torch.Tensor],
    train: Iterable[Batch],
    validate: Iterable[Batch],
    folder: str | Path,
    settings: FitSettings,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    saved: nn.Module | None = None,
    description: str = "",
) -> Path:
    """Train for a number of epochs; goes on where it was stopped.

    Args:
        network: takes ``image`` of a batch.
        loss: of the network's output and the batch, on the device.
        train, validate: batches, dictionaries with ``image``; the second only watch.
        folder: gets ``model.pt`` of the last epoch, ``checkpoint.pt`` and ``history.csv``.
        settings: kept in the weight file.
        epochs: passes over ``train``; the learning rate falls to 0 along a polynomial of power .9.
        optimizer: of the parameters that learn.
        device: where.
        saved: the part of the network whose weights are kept; None: all of it.
        description: of the progress bar.

    Returns:
        the weight file.
    """
    network.to(device)
    groups = [describe({k: v for k, v in group.items() if k != "params"}) for group in optimizer.param_groups]
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, poly_decay(epochs))

    def prepare(batch: Batch, device: torch.device, non_blocking: bool = False, **kwargs: Any) -> tuple[Any, Batch]:
        placed = {k: v.to(device, non_blocking=non_blocking) for k, v in batch.items() if isinstance(v, torch.Tensor)}
        return placed["image"], placed

    watched = Loss(loss, output_transform=lambda out: (out["pred"], out["label"]), batch_size=lambda b: len(b["image"]))
    evaluator = SupervisedEvaluator(device, validate, network, prepare_batch=prepare,
                                    key_val_metric={"val_loss": watched}, decollate=False)  # fmt: skip
    handlers = [
        LrScheduleHandler(scheduler, print_lr=False),
        EpochBar(desc=description or settings.method),
        ValidationHandler(interval=1, validator=evaluator, epoch_level=True),
        EpochHistory(folder, evaluator, optimizer),
        TrainingCheckpoint(
            folder,
            saved or network,
            optimizer,
            evaluator,
            "val_loss",
            settings,
            "min",
            scheduler=scheduler,
            keep="last",
            made_of={"optimizer": type(optimizer).__name__, "groups": groups},
        ),
    ]
    trainer = SupervisedTrainer(device, epochs, train, network, optimizer, loss, prepare_batch=prepare,
                                train_handlers=handlers, decollate=False, optim_set_to_none=True)  # fmt: skip
    trainer.run()
    return Path(folder) / MODEL
