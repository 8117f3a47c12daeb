"""From a classifier to masks: seeds, training of the affinities, the walk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.crf import DenseCRF
from ichseg.methods.affinity.labels import IGNORED, background_score, seed_labels
from ichseg.methods.affinity.network import AffinityLoss, AffinityNetwork, pair_affinity
from ichseg.methods.dense_resnet import DenseResNet, class_maps
from ichseg.methods.examples import labeled_examples
from ichseg.methods.pairs import affinity_matrix, half_disc, random_walk
from ichseg.networks import load_weights
from ichseg.training import FitSettings, checked_start, fit

STRONG, WEAK = 4.0, 32.0  # powers of the background for the labels
WALK_BACKGROUND = 8.0  # and in the walk (decision D24: Ma et al. 2025)
WALK_POWER = 8.0
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 5e-4  # authors: .1 for their new layers


def train_affinity(
    classifier: nn.Module,
    slices: dict[str, Tensor],
    folder: str | Path,
    settings: FitSettings,
    epochs: int,
    device: torch.device,
    batch_size: int = 8,
    learning_rate: float = LEARNING_RATE,
) -> Path:
    """Teach affinities from the sure pixels of class maps.

    Args:
        classifier: a trained ResNet slice classifier.
        slices: ``train`` and ``validate``, (n, 1, H, W) in [0, 1], slices with hemorrhage only.
        folder: see :func:`ichseg.training.fit`.
        settings, epochs, device, batch_size, learning_rate: of the training.

    Returns:
        the weights of the new layers.
    """
    network = AffinityNetwork(DenseResNet(classifier)).to(device)
    crf = DenseCRF()

    def labels_of(some: Tensor) -> Tensor:
        maps = class_maps(network.dense, some)
        return seed_labels(maps, some, maps.shape[1:], crf, (STRONG, WEAK))

    parts = labeled_examples(slices, labels_of, batch_size, device, IGNORED)
    loss = AffinityLoss()
    heads = network.heads
    optimizer = torch.optim.SGD(heads.parameters(), learning_rate, momentum=0.9, weight_decay=WEIGHT_DECAY)
    return fit(network, lambda features, batch: loss(features, batch["labels"]), parts["train"], parts["validate"],
               folder, settings, epochs, optimizer, device, saved=heads)  # fmt: skip


class AffinityMasks:
    """(B, 1, H, W) slices that bleed -> masks (B, H, W): the class map after its walk, where it exceeds the background.

    Args:
        classifier: the one the affinities were trained with.
        weights: of :func:`train_affinity`; None walks along untrained affinities.
        device: where.
    """

    def __init__(self, classifier: nn.Module, weights: str | Path | None, device: torch.device) -> None:
        checked_start(weights, classifier)
        self.network = AffinityNetwork(DenseResNet(classifier)).to(device).eval()
        load_weights(self.network.heads, weights)
        self.offsets, self.device = half_disc(5), device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        maps = class_maps(self.network.dense, images)
        affinity = pair_affinity(self.network(images), self.offsets)
        masks = []
        for one, pairs in zip(maps, affinity, strict=True):
            both = torch.stack([background_score(one[None], WALK_BACKGROUND), one])
            walked = random_walk(both, affinity_matrix(pairs, self.offsets), WALK_POWER)
            full = functional.interpolate(walked[None], size=images.shape[2:], mode="bilinear", align_corners=False)[0]
            masks.append((full[1] > full[0]) & bool(one.any()))
        return torch.stack(masks)
