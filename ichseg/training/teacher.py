"""An average of the network's past, and what it teaches."""

from __future__ import annotations

import copy
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ichseg.data.packed import windowed
from ichseg.networks import SUSPICIOUS_SHARE, suspicion
from ichseg.training.augment import Augmentation


class MovingAverage:
    """Ignite handler: an exponential moving average of a network's weights and statistics.

    Ignite's own EMAHandler warms up along a line of a length to be chosen; here a step counts by how many came before.

    Args:
        network: the one that trains.
        decay: of the average; early on less, so that the first steps are forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float = 0.995) -> None:
        self.source = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self.network = copy.deepcopy(self.source).eval().requires_grad_(False)
        self.decay = decay

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)

    @torch.no_grad()
    def update(self, engine: Engine) -> None:
        """Once after every step."""
        decay = min(self.decay, engine.state.iteration / (engine.state.iteration + 20))
        both = list(zip(self.network.state_dict().values(), self.source.state_dict().values(), strict=True))
        averaged = [pair for pair in both if pair[0].is_floating_point()]
        if averaged:
            mine, new = (list(side) for side in zip(*averaged, strict=True))
            get_ema_multi_avg_fn(decay)(mine, new, 0)  # all at once: hundreds of small kernels less on a GPU
        for old, now in both:
            if not old.is_floating_point():
                old.copy_(now)


class PrepareMixture:
    """``prepare_batch`` of the trainer: windowed, taught, augmented, on the device.

    Where a slice bleeds and nobody says where, the moving average is asked, once it has learned enough: its sure pixels
    become the slice's mask, its doubtful ones stay unknown. That the slice bleeds is known, only not where: with
    ``least`` below 1, slices are judged relative to their own most suspicious pixels, if these reach ``least``.

    Args:
        augment: of images and masks.
        level, width: window of the network in HU.
        average: the teacher; None: positive slices stay without masks.
        start: steps before it teaches.
        sure, unsure: above the one probability a pixel is hemorrhage, below the other it is none; relative to the
            most suspicious pixels of a slice whose probability is at least ``least``.
        least: 1 judges every slice alike.
        share: of a slice's pixels that count as its most suspicious.
        teacher: a trained network, such as an ensemble, whose logits of every augmented slice go with the target.
    """

    def __init__(
        self,
        augment: Augmentation,
        level: float = 50.0,
        width: float = 100.0,
        average: MovingAverage | None = None,
        start: float = 0,
        sure: float = 0.6,
        unsure: float = 0.15,
        least: float = 1.0,
        share: float = SUSPICIOUS_SHARE,
        teacher: nn.Module | None = None,
    ) -> None:
        self.augment, self.level, self.width = augment, level, width
        self.average, self.start, self.sure, self.unsure = average, start, sure, unsure
        self.least, self.share = least, share
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.step = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self._count)

    def _count(self, engine: Engine) -> None:
        self.step = engine.state.iteration

    def __call__(
        self, batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask, label = (batch[key].to(device, non_blocking=non_blocking) for key in ("image", "mask", "label"))
        image, mask = windowed(image, self.level, self.width), mask.float()
        unknown = mask.flatten(1).amin(dim=1) < 0
        if self.average is not None and self.step > self.start and bool(unknown.any()):
            taught = self._taught(self.average.network, image[unknown])
            mask[unknown] = torch.where(mask[unknown] < 0, taught, mask[unknown])
        image, mask = self.augment(image, mask)
        image, target = image.contiguous(memory_format=torch.channels_last), {"mask": mask, "label": label}
        if "subtypes" in batch:
            target["subtypes"] = batch["subtypes"].to(device, non_blocking=non_blocking)
        if self.teacher is not None:
            with torch.no_grad():
                target["teacher"] = self.teacher(image)
        return image, target

    @torch.no_grad()
    def _taught(self, network: nn.Module, image: Tensor) -> Tensor:
        logits = network(image.contiguous(memory_format=torch.channels_last)).float()
        pixels = logits[:, 1:2] - logits[:, :1]
        probability = pixels.sigmoid()
        peak = suspicion(pixels[:, 0], self.share).sigmoid()[:, None, None, None]
        probability = torch.where(peak >= self.least, probability / peak, probability)
        mask = torch.where(probability > self.sure, 1.0, torch.where(probability < self.unsure, 0.0, -1.0))
        mask[probability.flatten(1).amax(dim=1) <= self.sure] = -1.0
        return mask
