"""The boundary network and the labels it learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.crf import DenseCRF
from ichseg.methods.affinity import IGNORED, pair_labels
from ichseg.methods.dense_resnet import DenseResNet
from ichseg.methods.irnet.paths import Paths, boundary_affinity

WIDTH, GROUPS = 32, 4
FOREGROUND, BACKGROUND, CERTAINTY = 0.30, 0.05, 0.7
TRAINING_RADIUS = 10
SMALL = 1e-5


class BoundaryNetwork(nn.Module):
    """(B, 1, H, W) -> boundaries (B, h, w) in [0, 1] at a quarter of the slice.

    Every stage of the classifier, which stays as it is, goes through a 1 x 1 convolution, group normalization and ReLU;
    side by side, another 1 x 1 convolution and a sigmoid make one boundary of them. The displacements of IRNet tell
    instances apart; they share no layer that learns, so masks are the same without them.

    Args:
        dense: the classifier, stride 16.
    """

    def __init__(self, dense: DenseResNet) -> None:
        super().__init__()
        self.dense = dense.requires_grad_(False)
        stem = int(dense.network.conv1.out_channels)
        self.heads = nn.ModuleDict({
            "sides": nn.ModuleList(
                nn.Sequential(nn.Conv2d(width, WIDTH, 1, bias=False), nn.GroupNorm(GROUPS, WIDTH), nn.ReLU())
                for width in (stem, *dense.channels)
            ),
            "joined": nn.Conv2d(5 * WIDTH, 1, 1),
        })  # fmt: skip

    def train(self, mode: bool = True) -> BoundaryNetwork:
        super().train(mode)
        self.dense.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            stages = self.dense(x)
        return self.boundary(stages)

    def boundary(self, stages: list[Tensor]) -> Tensor:
        """Of the features of all five stages."""
        sides: Any = self.heads["sides"]
        grid = stages[1].shape[2:]
        found = [
            functional.interpolate(side(stage), size=grid, mode="bilinear", align_corners=False)
            for side, stage in zip(sides, stages, strict=True)
        ]
        return self.heads["joined"](torch.cat(found, dim=1))[:, 0].sigmoid()


class BoundaryLoss(nn.Module):
    """``(L_bg+ / 2 + L_fg+ / 2 + L_-) / 2`` over pairs within 10 pixels, as AffinityNet's but for the weights."""

    def __init__(self, radius: int = TRAINING_RADIUS) -> None:
        super().__init__()
        self.paths = Paths(radius)

    def forward(self, boundary: Tensor, labels: Tensor) -> Tensor:
        """(B, h, w) boundaries and labels, on one grid -> scalar."""
        affinity = boundary_affinity(boundary, self.paths)
        kinds = pair_labels(labels, self.paths.offsets)
        near, far = -(affinity + SMALL).log(), -(1 - affinity + SMALL).log()
        parts = [
            weight * (value * kind).sum() / kind.sum().clamp(min=1)
            for weight, value, kind in zip((0.25, 0.25, 0.5), (near, near, far), kinds, strict=True)
        ]
        return torch.stack(parts).sum()


def boundary_labels(maps: Tensor, images: Tensor, crf: DenseCRF) -> Tensor:
    """Class maps -> (B, H, W) int64: 1 where a map above .30 stays one after the CRF, 0 where one above .05 does not
    reach, :data:`IGNORED` between.

    Args:
        maps: (B, h, w) in [0, 1].
        images: (B, 1, H, W) in [0, 1].
        crf: of the full slice; labels go in with a certainty of .7.
    """
    score = functional.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
    found = []
    for threshold in (FOREGROUND, BACKGROUND):
        hemorrhage = torch.where(score > threshold, CERTAINTY, 1 - CERTAINTY)
        refined = crf.refine(torch.cat([1 - hemorrhage, hemorrhage], dim=1), images * 255)
        found.append(refined[:, 1] > refined[:, 0])
    sure, possible = found
    labels = torch.where(sure, 1, torch.where(possible, IGNORED, 0))
    labels[maps.amax(dim=(1, 2)) == 0] = IGNORED
    return labels
