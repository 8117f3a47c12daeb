"""FCDD (Liznerski et al., ICLR 2021): heat maps of what is not normal, as a second channel of the U-Net (decision D23).

A fully convolutional network maps normal slices near zero; slices with hemorrhage, real or drawn noise, away from it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (32, 64, 128, 128)
QUANTILES = (0.025, 0.999)
SMALLEST = 1e-9


class AnomalyNetwork(nn.Module):
    """(B, 1, H, W) -> (B, 1, H / 8, W / 8): a score of every place, ``sqrt(a^2 + 1) - 1``, 0 or more.

    Args:
        channels: of the four blocks, of which the first three halve.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for number, width in enumerate(channels):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
            layers += [nn.MaxPool2d(2)] if number < len(channels) - 1 else []
            before = width
        self.body = nn.Sequential(*layers, nn.Conv2d(before, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x).square() + 1).sqrt() - 1


def anomaly_loss(scores: Tensor, abnormal: Tensor) -> Tensor:
    """``S`` for normal images, ``-log(1 - exp(-S))`` for abnormal ones, S the mean of an image's scores.

    Args:
        scores: (B, 1, h, w) of :class:`AnomalyNetwork`.
        abnormal: (B,) 0 or 1.
    """
    mean = scores.flatten(1).mean(dim=1)
    away = -(1 - torch.exp(-mean)).clamp(min=SMALLEST).log()
    return torch.where(abnormal > 0, away, mean).mean()


def anomaly_heat(scores: Tensor, size: tuple[int, int], sigma: float = 8.0) -> Tensor:
    """(B, 1, h, w) -> heat (B, 1, H, W) in [0, 1]: every score spread as a Gaussian over what the network saw there.

    Args:
        scores: of :class:`AnomalyNetwork`.
        size: (H, W).
        sigma: of the Gaussian in pixels of the slice.
    """
    spread = functional.interpolate(scores, size=size, mode="nearest")
    reach = int(3 * sigma)
    away = torch.arange(-reach, reach + 1, device=scores.device, dtype=scores.dtype)
    line = torch.exp(-away.square() / (2 * sigma**2))
    line = line / line.sum()
    for shape, around in (((-1, 1), (0, 0, reach, reach)), ((1, -1), (reach, reach, 0, 0))):
        spread = functional.conv2d(functional.pad(spread, around, mode="replicate"), line.reshape(1, 1, *shape))
    flat = spread.flatten(1)
    low, high = (torch.quantile(flat.float(), q, dim=1).to(flat)[:, None, None, None] for q in QUANTILES)
    return ((spread - low) / (high - low).clamp(min=SMALLEST)).clamp(0, 1)


def with_anomalies(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slice (H, W) in [0, 1] with one to five noisy ellipses; half axes of 20 to 50 by 10 to 25 of 256 pixels."""
    result = image.copy()
    rows, columns = np.indices(image.shape)
    scale = image.shape[0] / 256
    for _ in range(int(rng.integers(1, 6))):
        row, column = rng.uniform(0.25, 0.75, 2) * image.shape
        long, short, turn = scale * rng.uniform(20, 50), scale * rng.uniform(10, 25), rng.uniform(0, np.pi)
        y, x = rows - row, columns - column
        along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        inside = (along / long) ** 2 + (across / short) ** 2 < 1
        result[inside] = (rng.uniform(0.5, 1.0) * rng.uniform(0, 1, image.shape))[inside]
    return result
