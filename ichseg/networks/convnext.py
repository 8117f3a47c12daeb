"""ConvNeXt V2, tiny, as a slice classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

DEPTHS, WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)


class ConvNeXtV2(nn.Module):
    """ConvNeXt V2 (Woo et al., CVPR 2023), (B, in_channels, H, W) -> logits (B, num_classes).

    ``stages.0`` to ``stages.3`` are a quarter to a thirty-second of the image. The default is the tiny one
    (decision D20: the paper names no size), whose ``stages.1`` has 192 channels.

    Args:
        in_channels: of the image.
        num_classes: logits.
        depths: blocks per stage.
        widths: channels per stage.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        depths: tuple[int, ...] = DEPTHS,
        widths: tuple[int, ...] = WIDTHS,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, stride=4), ChannelNorm(widths[0]))
        stages = []
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks: list[nn.Module] = [Block(width) for _ in range(depth)]
            if number:
                before = widths[number - 1]
                blocks.insert(0, nn.Sequential(ChannelNorm(before), nn.Conv2d(before, width, 2, stride=2)))
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean(dim=(2, 3))))


class Block(nn.Module):
    """Depthwise 7 x 7, then an inverted bottleneck with global response normalization, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 4 * width)
        self.response = GlobalResponseNorm(4 * width)
        self.project = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).movedim(1, -1))
        y = self.project(self.response(nn.functional.gelu(self.expand(y))))
        return x + y.movedim(-1, 1)


class GlobalResponseNorm(nn.Module):
    """Channels compete: each is scaled by its norm over space against the mean norm. (B, H, W, C) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(2, dim=(1, 2), keepdim=True)
        return self.weight * (x * norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)) + self.bias + x


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # Not by super(), which TorchScript does not know.
        last = layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return last.movedim(-1, 1)
