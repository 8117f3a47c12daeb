"""A mask layer whose channels share unit length, and a transformer that looks at both images of a pair."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

REDUCED, HEADS, INNER = 128, 2, 512
BACKGROUND = 0.95  # constant score of the background (Ma et al. 2025)
PAIR = 2


def activation_masks(logits: Tensor) -> Tensor:
    """(B, 1 + C, h, w) -> masks in [0, 1], background first: unit length at every pixel, without their sign.

    With one class (decision D25), ``mask^2 + background^2 = 1``.
    """
    return functional.normalize(logits, dim=1).abs()


class EDAMNetwork(nn.Module):
    """Features of image pairs -> masks and, from the masked features of both, a logit per image that it bleeds.

    Args:
        features: channels of the backbone's map.
        grid: rows and columns of that map, for the learned places.
        reduced: channels the transformer sees.
    """

    def __init__(self, features: int, grid: tuple[int, int], reduced: int = REDUCED, dropout: float = 0.1) -> None:
        super().__init__()
        self.mask = nn.Conv2d(features, 2, 3, padding=1, bias=False)
        self.reduce = nn.Conv2d(features, reduced, 1, bias=False)
        self.place = nn.Parameter(torch.zeros(1, 1, reduced, *grid))
        self.image = nn.Parameter(torch.zeros(1, PAIR, reduced, 1, 1))
        nn.init.trunc_normal_(self.place, std=0.02)
        nn.init.trunc_normal_(self.image, std=0.02)
        self.transformer = nn.TransformerEncoderLayer(reduced, HEADS, INNER, dropout, batch_first=True)
        self.classify = nn.Linear(reduced, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(2 P, K, h, w), pairs side by side -> logits (2 P,) and masks (2 P, 2, h, w)."""
        if len(features) % PAIR:
            raise ValueError(f"images come in pairs, not {len(features)}")
        masks = activation_masks(self.mask(features))
        masked = self.reduce(features) * masks[:, 1:]
        pairs = masked.reshape(-1, PAIR, *masked.shape[1:]) + self.place + self.image
        count, _, width, rows, columns = pairs.shape
        tokens = pairs.permute(0, 1, 3, 4, 2).reshape(count, PAIR * rows * columns, width)
        seen = self.transformer(tokens).reshape(count * PAIR, rows * columns, width)
        return self.classify(seen.mean(dim=1))[:, 0], masks


def pair_indices(labels: np.ndarray, rng: np.random.Generator, pairs: int) -> np.ndarray:
    """(pairs, 2) indices of images: half of them two positives, half a positive and a negative (decision D25).

    Raises:
        ValueError: there is no image of one of the kinds.
    """
    positive, negative = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)
    if not len(positive) or not len(negative):
        raise ValueError("pairs need images with and without hemorrhage")
    first = rng.choice(positive, pairs)
    second = np.where(np.arange(pairs) % 2 == 0, rng.choice(positive, pairs), rng.choice(negative, pairs))
    # Who stands first must not tell who bleeds: the network knows the two places apart.
    return rng.permuted(np.stack([first, second], axis=1), axis=1)


def seed_masks(masks: Tensor, background: float = BACKGROUND) -> Tensor:
    """(n, h, w) of hemorrhage, averaged over scales and flips -> bool: divided by its maximum, above the background."""
    peak = masks.amax(dim=(-2, -1), keepdim=True)
    return torch.where(peak > 0, masks / peak.clamp(min=1e-12), 0) > background
