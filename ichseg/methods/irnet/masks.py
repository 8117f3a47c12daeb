"""From a classifier to masks: labels, training of the boundaries, the walk that they stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.crf import DenseCRF
from ichseg.methods.affinity import IGNORED
from ichseg.methods.dense_resnet import DenseResNet, class_maps, relative
from ichseg.methods.examples import labeled_examples
from ichseg.methods.irnet.network import BoundaryLoss, BoundaryNetwork, boundary_labels
from ichseg.methods.irnet.paths import edge_walk
from ichseg.networks import load_weights
from ichseg.training import FitSettings, checked_start, fit

STRIDE = 16
LEARNING_RATE, WEIGHT_DECAY = 1e-1, 1e-4
BACKGROUND_SCORE = 0.25  # what the walked map must exceed, divided by its maximum


def train_boundaries(
    classifier: nn.Module,
    slices: dict[str, Tensor],
    folder: str | Path,
    settings: FitSettings,
    epochs: int,
    device: torch.device,
    batch_size: int = 8,
    learning_rate: float = LEARNING_RATE,
    maps: Callable[[Tensor], Tensor] | None = None,
) -> Path:
    """Teach boundaries from the sure pixels of class maps; arguments as of
    :func:`ichseg.methods.affinity.train_affinity`, and ``maps``, (B, 1, H, W) -> (B, h, w), in place of those."""
    network = BoundaryNetwork(DenseResNet(classifier, STRIDE)).to(device)
    crf = DenseCRF()

    def labels_of(some: Tensor) -> Tensor:
        found = class_maps(network.dense, some) if maps is None else maps(some)
        return boundary_labels(found, some, crf)[:, ::4, ::4]  # the boundaries' grid

    parts = labeled_examples(slices, labels_of, batch_size, device, IGNORED)
    loss, heads = BoundaryLoss(), network.heads
    optimizer = torch.optim.SGD(heads.parameters(), learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY)
    return fit(network, lambda boundary, batch: loss(boundary, batch["labels"]), parts["train"], parts["validate"],
               folder, settings, epochs, optimizer, device, saved=heads)  # fmt: skip


class BoundaryMasks:
    """(B, 1, H, W) slices that bleed -> masks (B, H, W): class maps that spread up to the boundaries.

    Args:
        classifier: the one the boundaries were trained with.
        weights: of :func:`train_boundaries`; None takes untrained boundaries.
        device: where.
        threshold: of the walked map, divided by its maximum.
        maps: (B, 1, H, W) -> (B, h, w) in [0, 1] in place of class maps.
    """

    def __init__(
        self,
        classifier: nn.Module,
        weights: str | Path | None,
        device: torch.device,
        threshold: float = BACKGROUND_SCORE,
        maps: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        checked_start(weights, classifier)
        self.network = BoundaryNetwork(DenseResNet(classifier, STRIDE)).to(device).eval()
        load_weights(self.network.heads, weights)
        self.device, self.threshold, self.maps = device, threshold, maps

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        boundaries = self.network(images)
        maps = class_maps(self.network.dense, images) if self.maps is None else self.maps(images)
        grid = boundaries.shape[1:]
        fine = functional.interpolate(maps[:, None], size=grid, mode="bilinear", align_corners=False)
        walked = torch.stack([edge_walk(one, edge) for one, edge in zip(fine, boundaries, strict=True)])
        full = functional.interpolate(walked, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return relative(full) > self.threshold
