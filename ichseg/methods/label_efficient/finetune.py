"""Fine-tuning on few masks: which patients, and a U-Net that starts from a pretext task."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ichseg.data import load_masked
from ichseg.data.datalist import patient_name
from ichseg.errors import IchsegError
from ichseg.methods.label_efficient.losses import MaskLoss
from ichseg.methods.label_efficient.pretext import PretextSettings
from ichseg.methods.label_efficient.unet import LabelEfficientSegmenter, transfer
from ichseg.networks.weights import read_checkpoint, read_settings

logger = logging.getLogger(__name__)


def some_patients(
    datalist: str | Path,
    folds: Sequence[int] | None = None,
    fraction: float = 1.0,
    seed: int = 0,
    apart_from: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Scans with a mask, or known to be empty, of a share of the patients of each kind.

    Args:
        datalist: the file.
        folds: keep only these.
        fraction: above 0; patients with hemorrhage and without are drawn apart, at least one of each there is.
        seed: of the draw: the patients of a smaller fraction are among those of a larger one.
        apart_from: see :func:`ichseg.data.load_datalist`.

    Raises:
        IchsegError: a fraction that is none, or no scan has a mask.
    """
    if not 0 < fraction <= 1:
        raise IchsegError(f"fraction must be above 0 and at most 1, not {fraction}")
    scans = load_masked(datalist, folds, supervision="masks", apart_from=apart_from)
    kinds: dict[bool, list[str]] = {True: [], False: []}
    bleeding = {patient_name(scan) for scan in scans if any(scan.get("slice_labels", ()))}
    for patient in dict.fromkeys(map(patient_name, scans)):
        kinds[patient in bleeding].append(patient)
    kept: set[str] = set()
    for patients in kinds.values():
        order = np.random.default_rng(seed).permutation(len(patients))
        kept |= {patients[i] for i in order[: max(1, round(fraction * len(patients)))]}
    return [scan for scan in scans if patient_name(scan) in kept]


def pretrained_unet(network: LabelEfficientSegmenter, path: str | Path | None) -> LabelEfficientSegmenter:
    """Copy the weights of a pretext task by name; the log tells which. ``None`` leaves random ones.

    The weights of the anomaly task go into the network's attention instead, see :class:`LabelEfficientSegmenter`.

    Raises:
        IchsegError: the file is no pretrained one, or less than the whole encoder fits.
    """
    if path is None:
        return network
    made, state = read_settings(path, PretextSettings), read_checkpoint(path)
    if (made.task == "anomaly") != network.attends:
        kind = "label_efficient_attention" if made.task == "anomaly" else "label_efficient"
        raise IchsegError(f"{path}: weights of task '{made.task}' are for architecture {kind}")
    if network.attends:
        network.anomaly.load_state_dict(state)
        logger.info("%s: attention of the anomaly task", path)
    else:
        logger.info("%s: %s", path, transfer(network, state).text())
    logger.info("%s: pretrained at size %d, window %g/%g", path, made.size, made.window_level, made.window_width)
    return network


class LogitMaskLoss(nn.Module):
    """:class:`MaskLoss` of two logits, background and hemorrhage.

    Args:
        empty: weight of an image whose mask is empty.
    """

    def __init__(self, empty: float = 0.2) -> None:
        super().__init__()
        self.loss = MaskLoss(empty)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """(B, 2, H, W) and (B, 1, H, W) -> scalar."""
        return self.loss(torch.softmax(logits.float(), dim=1)[:, 1:], masks)
