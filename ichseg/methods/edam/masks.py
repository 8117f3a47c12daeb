"""From a classifier to masks: pairs of slices, training, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.methods.dense_resnet import LEFT_RIGHT, DenseResNet
from ichseg.methods.edam.network import PAIR, EDAMNetwork, activation_masks, pair_indices, seed_masks
from ichseg.networks import load_weights
from ichseg.training import FitSettings, checked_start, fit

LEARNING_RATE, WEIGHT_DECAY = 1e-4, 5e-4  # authors: SGD, 1e-3


class EDAM(nn.Module):
    """(2 P, 1, H, W) pairs of slices, side by side -> logits (2 P,) and masks (2 P, 2, h, w).

    Args:
        classifier: a trained ResNet slice classifier, which goes on learning.
        size: pixels per side.
    """

    def __init__(self, classifier: nn.Module, size: int) -> None:
        super().__init__()
        self.dense = DenseResNet(classifier)
        self.head = EDAMNetwork(self.dense.channels[-1], (size // 8, size // 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.dense(x)[-1])

    def masks(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, h, w) of hemorrhage, the mean over the slice and its mirror image."""
        logits = self.head.mask(self.dense(torch.cat([x, x.flip(LEFT_RIGHT)]))[-1])
        straight, mirrored = activation_masks(logits)[:, 1].chunk(2)
        return (straight + mirrored.flip(LEFT_RIGHT)) / 2


class SlicePairs:
    """Batches of pairs, half of them two slices that bleed, half one that does and one that does not (D25).

    Args:
        images: (n, 1, H, W).
        labels: (n,) 0 or 1.
        pairs: in a batch.
        batches: in a pass.
        seed: None: other pairs in every pass.
    """

    def __init__(self, images: Tensor, labels: Tensor, pairs: int, batches: int, seed: int | None = None) -> None:
        self.images, self.labels, self.pairs, self.batches, self.seed = images, labels, pairs, batches, seed

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        rng = np.random.default_rng(seed)
        for _ in range(self.batches):
            places = torch.from_numpy(pair_indices(self.labels.numpy(), rng, self.pairs)).flatten()
            images = self.images[places].float()
            if self.seed is None:
                turned = torch.from_numpy(rng.uniform(size=len(images)) < 0.5)
                images[turned] = images[turned].flip(LEFT_RIGHT)
            yield {"image": images, "label": self.labels[places].float()}


def train_edam(
    classifier: nn.Module,
    slices: dict[str, tuple[Tensor, Tensor]],
    folder: str | Path,
    settings: FitSettings,
    epochs: int,
    device: torch.device,
    batch_size: int = 8,
    learning_rate: float = LEARNING_RATE,
) -> Path:
    """Train on pairs of slices from slice labels.

    Args:
        classifier: where the network starts.
        slices: ``train`` and ``validate``, each images (n, 1, H, W) in [0, 1] and labels (n,).
        folder: see :func:`ichseg.training.fit`.
        settings, epochs, device, learning_rate: of the training.
        batch_size: slices in a batch.

    Returns:
        the weights.
    """
    network = EDAM(classifier, settings.size)
    pairs = max(batch_size // PAIR, 1)
    loaders = {
        name: SlicePairs(images, labels, pairs, max(len(images) // (PAIR * pairs), 1), None if name == "train" else 0)
        for name, (images, labels) in slices.items()
    }

    def loss(output: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return functional.binary_cross_entropy_with_logits(output[0], batch["label"])

    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
    return fit(network, loss, loaders["train"], loaders["validate"], folder, settings, epochs, optimizer, device)


class EDAMMasks:
    """(B, 1, H, W) slices that bleed -> masks (B, H, W): where the mask, by its maximum, exceeds the background's .95.

    Args:
        classifier: the one the training started from.
        weights: of :func:`train_edam`; None takes an untrained head.
        size: pixels per side.
        device: where.
    """

    def __init__(self, classifier: nn.Module, weights: str | Path | None, size: int, device: torch.device) -> None:
        checked_start(weights, classifier)
        self.network = load_weights(EDAM(classifier, size), weights).to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        masks = self.network.masks(images.to(self.device))
        full = functional.interpolate(masks[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
        return seed_masks(full[:, 0])
