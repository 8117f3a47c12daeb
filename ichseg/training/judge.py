"""Implants that a model tells too easily teach little: it has the last word on which are used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ichseg.data.packed import PackedScans, windowed
from ichseg.errors import IchsegError
from ichseg.networks import SegmenterSettings, read_settings, slice_scores, trained_segmenter
from ichseg.progress import progress
from ichseg.synthetic.implants.pool import ImplantPool
from ichseg.training.distributed import of_first_process

logger = logging.getLogger(__name__)
BATCH = 16


def judged_pool(
    pool: ImplantPool,
    packed: PackedScans,
    weights: str | Path | None = None,
    quantile: float = 0.8,
    keep: float = 0.3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    like: Mapping[str, Any] | None = None,
) -> ImplantPool:
    """Thin out implants that look more like hemorrhage than most real hemorrhage does.

    After FreeTumor (Wu et al. 2024), where a discriminator rejects synthetic tumors; here a trained model judges: an
    implanted slice whose score is above the ``quantile`` of the real positive slices' scores stays with a chance of
    ``keep``.

    Args:
        pool: all implants.
        packed: the training scans they are in; their positive slices are the real ones.
        weights: of the judge, trained on the same folds or fewer; None leaves the pool as it is.
        quantile: of the real positive slices' scores.
        keep: share of the easy ones that stays.
        seed: decides which.
        device: where the judge runs.
        like: settings the judge must have been made for: those of the training.

    Raises:
        IchsegError: no real positive slice, or the weights do not fit.
    """
    if weights is None:
        return pool
    settings, network = read_settings(weights, SegmenterSettings), trained_segmenter(weights, device, like)
    bleeding = np.flatnonzero(packed.labels > 0)
    if not len(bleeding):
        raise IchsegError("no training slice with hemorrhage; there is nothing to compare implants with")
    real = _scores([packed.gray[list(packed.with_neighbors(int(i)))] for i in bleeding], network, settings, device)
    limit = float(np.quantile(real, quantile))
    scores = np.concatenate([
        _scores([pool[i][0] for i in range(start, min(start + BATCH, len(pool)))], network, settings, device)
        for start in progress(range(0, len(pool), BATCH), "judging implants")
    ])  # fmt: skip
    stays = (scores <= limit) | (np.random.default_rng(seed).uniform(size=len(scores)) < keep)
    stays = of_first_process(stays, device)  # another device may round a score to the other side of the limit
    told = int(stays.sum()), len(pool), int((scores > limit).sum()), limit
    logger.info("%d of %d implanted slices kept: %d score above %.2f", *told)
    if not stays.any():
        raise IchsegError(f"{weights}: scores every implant above the limit; no implants are left to train on")
    kept = ImplantPool(pool.packed, pool.implants)
    kept.index = [place for place, stay in zip(pool.index, stays, strict=True) if stay]
    return kept


@torch.no_grad()
def _scores(
    images: list[np.ndarray], network: nn.Module | None, settings: SegmenterSettings, device: torch.device | str
) -> np.ndarray:
    """(3, H, W) uint8 slices -> (n,) scores."""
    if network is None:
        raise ValueError("no network to judge with")
    found = []
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.stack(images[start : start + BATCH])).to(device)
        batch = windowed(batch, settings.window_level, settings.window_width)
        logits = network(batch.contiguous(memory_format=torch.channels_last)).float()
        found.append(slice_scores(logits, settings.suspicious_share).cpu().numpy())
    return np.concatenate(found)
