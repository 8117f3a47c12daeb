"""From a classifier to masks: training with the memory, maps, CRF."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.crf import DenseCRF, score_probabilities
from ichseg.methods.dense_resnet import LEFT_RIGHT
from ichseg.methods.examples import Examples
from ichseg.methods.rca.network import RCA, RCALoss
from ichseg.networks import load_weights
from ichseg.training import FitSettings, checked_start, fit

LEARNING_RATE, WEIGHT_DECAY, NEW_LAYERS = 1e-3, 5e-4, 10  # new layers learn ten times as fast
POWER, BACKGROUND = 4.0, 0.9  # of the background in the CRF; what its result must exceed (Ma et al. 2025)
SMALL = 1e-12


class _Passes:
    """Batches; before every pass, the centers of the memory are updated."""

    def __init__(self, batches: Examples, loss: RCALoss) -> None:
        self.batches, self.loss = batches, loss

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.loss.network.refresh()
        yield from self.batches


def train_rca(
    classifier: nn.Module,
    slices: dict[str, tuple[Tensor, Tensor]],
    folder: str | Path,
    settings: FitSettings,
    epochs: int,
    device: torch.device,
    batch_size: int = 8,
    learning_rate: float = LEARNING_RATE,
) -> Path:
    """Train from slice labels; arguments as of :func:`ichseg.methods.edam.train_edam`."""
    network = RCA(classifier)
    loss = RCALoss(network)
    loaders = {
        name: Examples({"image": images, "label": labels}, batch_size, shuffle=name == "train")
        for name, (images, labels) in slices.items()
    }
    trained = {id(p) for p in network.dense.parameters()}
    groups = [
        {"params": [p for p in network.parameters() if id(p) in trained], "lr": learning_rate},
        {"params": [p for p in network.parameters() if id(p) not in trained], "lr": NEW_LAYERS * learning_rate},
    ]
    optimizer = torch.optim.SGD(groups, learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True)
    train = _Passes(loaders["train"], loss)
    return fit(network, loss, train, loaders["validate"], folder, settings, epochs, optimizer, device)


class RCAMasks:
    """(B, 1, H, W) slices that bleed -> masks (B, H, W): the fine map between its extremes, through a dense CRF.

    The authors add up maps over all passes; this is the last one's.

    Args:
        classifier: the one the training started from.
        weights: of :func:`train_rca`; None takes untrained heads.
        device: where.
    """

    def __init__(self, classifier: nn.Module, weights: str | Path | None, device: torch.device) -> None:
        checked_start(weights, classifier)
        self.network = load_weights(RCA(classifier), weights).to(device).eval()
        self.device, self.crf = device, DenseCRF()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        straight, mirrored = self.network(torch.cat([images, images.flip(LEFT_RIGHT)])).fine.chunk(2)
        maps = functional.interpolate(
            (straight + mirrored.flip(LEFT_RIGHT))[:, None], size=images.shape[2:], mode="bilinear", align_corners=False
        )
        low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
        score = (maps - low) / (high - low).clamp(min=SMALL)
        return self.crf.refine(score_probabilities(score, POWER), images * 255)[:, 1] > BACKGROUND
