"""A U-Net that outlines and decides: one map of the pixels, one score of the slice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.blocks import ResidualUnit
from torch import Tensor, nn

CHANNELS = (16, 32, 64, 128, 256)
SUSPICIOUS_SHARE = 0.0012  # of a slice's pixels: about 60 of 224 x 224, half a square centimeter
RARE = -4.0  # most pixels are no hemorrhage: the first steps need not learn it


class ContextUNet(nn.Module):
    """2-D residual U-Net whose bottleneck also scores the slice.

    (B, in_channels, H, W) -> (B, 3, H, W): logits of background (0 everywhere) and hemorrhage for every pixel, and the
    logit that the slice bleeds at all, the same at every pixel. One tensor, so that any inferer can carry it;
    :class:`ichseg.transforms.SliceScoredProbability` makes probabilities of it.

    Args:
        in_channels: 3 for a slice between its neighbors, see :class:`ichseg.transforms.NeighborSlices`.
        channels: of the levels, 3 at least; each halves the one before, the last does not. H and W must be multiples
            of ``2 ** (len(channels) - 1)``.
        dropout: before the slice's score.
        subtypes: number of hemorrhage subtypes whose logits follow as channels of their own, each the same at every
            pixel.
    """

    def __init__(
        self, in_channels: int = 3, channels: Sequence[int] = CHANNELS, dropout: float = 0.3, subtypes: int = 0
    ) -> None:
        super().__init__()
        if len(channels) < 3:
            raise ValueError(f"channels must name at least 3 levels, not {len(channels)}")
        block: dict[str, Any] = {"spatial_dims": 2, "norm": "batch", "act": "relu"}
        widths = [in_channels, *channels]
        self.down = nn.ModuleList(
            ResidualUnit(in_channels=a, out_channels=b, strides=2, subunits=2, **block)
            for a, b in pairwise(widths[:-1])
        )
        self.bottom = ResidualUnit(in_channels=widths[-2], out_channels=widths[-1], subunits=2, **block)
        upward = [channels[-1], *channels[-3::-1]]
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(upward))
        self.up = nn.ModuleList(
            ResidualUnit(in_channels=2 * width, out_channels=width, subunits=1, **block) for width in upward[1:]
        )
        fine = max(channels[0] // 2, 1)
        self.fine = nn.Sequential(nn.Conv2d(in_channels, fine, 3, padding=1), nn.ReLU())
        last = nn.Conv2d(channels[0], 1, 1)
        nn.init.constant_(last.bias, RARE)  # type: ignore[arg-type]
        self.outline = nn.Sequential(
            nn.Conv2d(channels[0] + fine, channels[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
            last,
        )
        self.score = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * channels[-1], 1))
        self.subtypes = nn.Linear(2 * channels[-1], subtypes) if subtypes else None

    def forward(self, x: Tensor) -> Tensor:
        features: list[Tensor] = []
        hidden = x
        for down in self.down:
            hidden = down(hidden)
            features.append(hidden)
        hidden = self.bottom(hidden)
        pooled = torch.cat([hidden.amax(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
        score = self.score(pooled)
        if self.subtypes is not None:
            score = torch.cat([score, self.subtypes(pooled)], dim=1)
        level = len(features) - 1
        for narrow, up in zip(self.narrow, self.up):  # noqa: B905  # TorchScript knows no 'strict'
            level -= 1
            hidden = up(torch.cat([_doubled(narrow(hidden)), features[level]], dim=1))
        pixels = self.outline(torch.cat([_doubled(hidden), self.fine(x)], dim=1))
        return packed_logits(pixels, score)


class NetworkEnsemble(nn.Module):
    """Several networks of one kind, and each slice seen from both sides: the mean of their logits.

    (B, C, H, W) -> the mean of what the members give. A volume (B, C, H, W, slices) is taken slice by slice, so that
    programs which hand over whole scans need no inferer of ours.

    Args:
        members: the networks.
        flip: also run on the slice with left and right exchanged. Slices are (first axis to the left, second to the
            back), as ``Orientationd`` with LPS leaves them.
    """

    def __init__(self, members: Sequence[nn.Module], flip: bool = True) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.flip = flip

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            count, depth = x.shape[0], x.shape[4]
            return self.mean_logits(x.movedim(4, 1).flatten(0, 1)).unflatten(0, (count, depth)).movedim(1, 4)
        return self.mean_logits(x)

    def mean_logits(self, x: Tensor) -> Tensor:
        """Of slices (B, C, H, W)."""
        views = [member(x) for member in self.members]
        if self.flip:
            mirrored = x.flip(2)
            views += [member(mirrored).flip(2) for member in self.members]
        return torch.stack(views).mean(dim=0)


def packed_logits(pixels: Tensor, score: Tensor) -> Tensor:
    """(B, 1, H, W) logits of the pixels and (B, N) of the slice -> (B, 2 + N, H, W): background 0, pixels, slice."""
    whole = score[:, :, None, None].to(pixels).expand(-1, -1, pixels.shape[2], pixels.shape[3])
    return torch.cat([torch.zeros_like(pixels), pixels, whole], dim=1)


def suspicion(pixels: Tensor, share: float) -> Tensor:
    """(B, H, W) logits -> (B,): mean of the largest ``share`` of them, which stands for the slice."""
    flat = pixels.flatten(1).float()
    return flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.mean(dim=1)


def slice_scores(logits: Tensor, share: float = SUSPICIOUS_SHARE) -> Tensor:
    """(B, 3, H, W) logits of :class:`ContextUNet` -> (B,): mean of the slice's own and its most suspicious pixels'."""
    return (logits[:, 2].flatten(1).mean(dim=1) + suspicion(logits[:, 1] - logits[:, 0], share)) / 2


def _doubled(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
