"""The tasks a U-Net is pretrained with: their networks, what a batch becomes, and their losses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from ichseg.data.slice_subtypes import known_cross_entropy, subtype_targets
from ichseg.data.slices import SliceDataset
from ichseg.data.subtypes import SUBTYPE_ORDER
from ichseg.errors import IchsegError
from ichseg.methods.label_efficient.anomaly import AnomalyNetwork, anomaly_loss, with_anomalies
from ichseg.methods.label_efficient.contrastive import REGION, TEMPERATURE, local_contrastive_loss, region_vectors
from ichseg.methods.label_efficient.restoration import swap_patches
from ichseg.methods.label_efficient.unet import FILTERS, LabelEfficientUNet, transfer
from ichseg.methods.label_efficient.views import two_views
from ichseg.networks.weights import check_settings, read_checkpoint

logger = logging.getLogger(__name__)
SELF_SUPERVISED = ("restoration", "global_contrast", "local_contrast")
WEAKLY_SUPERVISED = ("binary", "subtypes", "anomaly")
TASKS = SELF_SUPERVISED + WEAKLY_SUPERVISED
TARGETS = 2 + len(SUBTYPE_ORDER)  # no hemorrhage, any, and each subtype
REGIONS, DECODED = 20, 3  # of the local task: regions of a slice, steps of the decoder


@dataclass(frozen=True)
class PretextSettings:
    """What travels with pretrained weights.

    Attributes:
        task: one of :data:`TASKS`.
        size: pixels per side.
        window_level, window_width: HU.
    """

    task: str
    size: int
    window_level: float
    window_width: float

    def __post_init__(self) -> None:
        checked_task(self.task)
        check_settings(self, size=(1, inf), window_width=(1, inf))


def checked_task(task: str) -> str:
    """The same.

    Raises:
        IchsegError: it is none of :data:`TASKS`.
    """
    if task not in TASKS:
        raise IchsegError(f"task '{task}' is unknown; choose one of {', '.join(TASKS)}")
    return task


class PretextNetwork(nn.Module):
    """The U-Net under ``unet``, and what its task needs on top of it.

    Args:
        task: one of :data:`TASKS`.
        filters: of the U-Net's five levels.
        dropout: in every block.
    """

    def __init__(self, task: str, filters: Sequence[int] = FILTERS, dropout: float = 0.0) -> None:
        super().__init__()
        self.task = checked_task(task)
        self.unet: Any = AnomalyNetwork() if task == "anomaly" else LabelEfficientUNet(1, 1, filters, dropout)
        deepest = filters[-1]
        heads = {
            "global_contrast": (deepest, deepest, 128),
            "binary": (deepest, 256, 2),
            "subtypes": (deepest, 256, TARGETS),
        }
        self.head: nn.Module = nn.Identity()
        if task in heads:
            first, second, last = heads[task]
            self.head = nn.Sequential(nn.Linear(first, second), nn.ReLU(), nn.Linear(second, last))
        elif task == "local_contrast":
            self.unet.requires_grad_(False)
            for step in (self.unet.upcat_4, self.unet.upcat_3, self.unet.upcat_2):
                step.requires_grad_(True)
            self.head = nn.Sequential(nn.Conv2d(filters[1], 128, 1), nn.ReLU(), nn.Conv2d(128, 32, 1))

    def train(self, mode: bool = True) -> PretextNetwork:
        super().train(mode)
        if self.task == "local_contrast":  # what does not learn keeps its statistics too
            for part in (self.unet.conv_0, self.unet.down_1, self.unet.down_2, self.unet.down_3, self.unet.down_4):
                part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.task in ("restoration", "anomaly"):
            return self.unet(x)
        features = self.unet.encode(x)
        if self.task == "local_contrast":
            return self.head(self.unet.decode(features, DECODED))
        return self.head(features[-1].mean(dim=(2, 3)))


def continued(network: PretextNetwork, path: str | Path | None) -> PretextNetwork:
    """Start the U-Net from the weights of an earlier task, as the local task does from the global one.

    Raises:
        IchsegError: the file cannot be read, less than the whole encoder fits, the local task has none, or the task's
            network is no U-Net.
    """
    if path is None and network.task == "local_contrast":
        raise IchsegError("task 'local_contrast' needs init_weights, the model.pt of task global_contrast")
    if path is not None and network.task == "anomaly":
        raise IchsegError("task 'anomaly' takes no init_weights: its network is not a U-Net")
    if path is not None:
        logger.info("%s: %s", path, transfer(network.unet, read_checkpoint(path)).text())
    return network


class PretextSlices(Dataset):
    """Slices with what a task needs.

    Args:
        slices: of :class:`ichseg.data.SliceDataset`, with slice labels.
        task: one of :data:`TASKS`.
        datalist: whose ``slice_labels.csv`` tells subtypes.
        required: False: none need be told.

    Items: those of ``slices``; ``changed`` (1, H, W) for restoration and anomaly, with ``label`` 1 where something was
    drawn; ``targets`` (7,) for subtypes, -1 where a subtype is not known.

    Raises:
        IchsegError: no subtypes for the task that needs them.
    """

    def __init__(self, slices: SliceDataset, task: str, datalist: str, required: bool = True) -> None:
        self.slices, self.task = slices, checked_task(task)
        self.targets: Tensor | None = None
        if task == "subtypes":
            known = subtype_targets(slices, datalist, required)
            self.targets = torch.cat([1 - known[:, :1], known], dim=1)  # no hemorrhage comes first

    @property
    def positive(self) -> Tensor:
        """(n,) bool, for a balanced sampler."""
        return self.slices.positive

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.slices[i]
        if self.task in ("restoration", "anomaly"):
            rng, image = np.random.default_rng(int(torch.randint(2**31, ()))), item["image"][0].numpy()
            if self.task == "restoration":
                item["changed"] = torch.from_numpy(swap_patches(image, rng))[None]
            else:
                drawn = not item["label"] and rng.uniform() < 0.5
                item["changed"] = torch.from_numpy(with_anomalies(image, rng) if drawn else image.copy())[None].float()
                item["label"] = torch.as_tensor(int(item["label"] or drawn))
        if self.targets is not None:
            item["targets"] = self.targets[i]
        return item


class PreparePretext:
    """``prepare_batch`` of a task: what goes into the network, and what the loss compares with.

    Args:
        task: one of :data:`TASKS`.
    """

    def __init__(self, task: str) -> None:
        self.task = checked_task(task)

    def __call__(
        self, batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        image, label = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "label"))
        if self.task == "restoration":
            return batch["changed"].to(device), image
        if self.task == "anomaly":
            return batch["changed"].to(device), label
        if self.task in ("global_contrast", "local_contrast"):
            return torch.cat(two_views(image, moved=self.task == "global_contrast")), label
        return image, batch["targets"].to(device) if self.task == "subtypes" else label


class PretextLoss(nn.Module):
    """The loss of a task.

    Args:
        task: one of :data:`TASKS`.
        data: the training slices, whose labels weigh the subtypes: negatives over positives.
        positive_share: of the slices drawn; 0: as many as there are.
    """

    def __init__(self, task: str, data: PretextSlices | None = None, positive_share: float = 0.0) -> None:
        super().__init__()
        self.task = checked_task(task)
        self.contrast = ContrastiveLoss(temperature=TEMPERATURE)
        self.weights: Tensor | None = None
        if task == "subtypes" and data is not None and data.targets is not None:
            self.weights = _weights(data.targets, positive_share)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if self.task == "restoration":
            return functional.mse_loss(output, target)
        if self.task == "global_contrast":
            return self.contrast(*output.chunk(2))
        if self.task == "local_contrast":
            places = _places(output.shape[2:])
            one, other = (region_vectors(view, places) for view in output.chunk(2))
            return local_contrastive_loss(one, other)
        if self.task == "anomaly":
            return anomaly_loss(output, target)
        if self.task == "binary":
            return functional.cross_entropy(output, target)
        return known_cross_entropy(output, target, None if self.weights is None else self.weights.to(output))


def _weights(targets: Tensor, positive_share: float) -> Tensor:
    """Negatives over positives of every class among the slices that are drawn."""
    bleeds = targets[:, 1] == 1
    share = torch.full((len(targets),), 1.0)
    if positive_share:
        share[bleeds] = positive_share / max(int(bleeds.sum()), 1)
        share[~bleeds] = (1 - positive_share) / max(int((~bleeds).sum()), 1)
    positive, negative = ((share[:, None] * (targets == value)).sum(dim=0) for value in (1, 0))
    return torch.where(positive > 0, negative / positive.clamp(min=1e-12), 1.0)


def _places(grid: Sequence[int]) -> list[tuple[int, int]]:
    """Corners of regions that do not overlap, drawn from a grid of them."""
    rows, columns = grid[0] // REGION, grid[1] // REGION
    if rows * columns < 2:
        raise IchsegError(f"a feature map of {grid[0]} x {grid[1]} has no room for two regions; choose a larger size")
    chosen = torch.randperm(rows * columns)[:REGIONS].tolist()
    return [(place // columns * REGION, place % columns * REGION) for place in chosen]
