"""The U-Net of all tasks, and weights that travel from one to the next by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from ichseg.errors import IchsegError
from ichseg.methods.label_efficient.anomaly import AnomalyNetwork, anomaly_heat

FILTERS = (32, 64, 128, 256, 512)
ENCODER = ("conv_0.", "down_")  # how the encoder's tensors begin


class LabelEfficientUNet(BasicUNet):
    """MONAI's BasicUNet as the authors' network: (B, C, H, W) -> (B, out, H, W) without a final activation.

    Four steps down and up of two 3 x 3 convolutions with batch normalization, skips by concatenation.

    Args:
        in_channels: 2 with an attention channel.
        out_channels: of the last 1 x 1 convolution.
        filters: of the five levels.
        dropout: in every block.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, filters: Sequence[int] = FILTERS, dropout: float = 0.0
    ) -> None:
        super().__init__(2, in_channels, out_channels, (*filters, filters[0]), "relu", "batch", dropout=dropout)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of every level, finest first."""
        found = [self.conv_0(x)]
        for down in (self.down_1, self.down_2, self.down_3, self.down_4):
            found.append(down(found[-1]))
        return found

    def decode(self, features: Sequence[Tensor], steps: int = 4) -> Tensor:
        """Upward from the deepest level, all four steps or the first few."""
        x = features[-1]
        upward = (self.upcat_4, self.upcat_3, self.upcat_2, self.upcat_1)
        for step, skip in list(zip(upward, reversed(features[:-1]), strict=True))[:steps]:
            x = step(x, skip)
        return x


class LabelEfficientSegmenter(LabelEfficientUNet):
    """The same as a segmenter: (B, 1, H, W) -> logits (B, 2, H, W) of background, 0 everywhere, and hemorrhage.

    Args:
        attention: a second input channel, the heat map of an anomaly network (decision D23), which does not learn.
    """

    def __init__(self, attention: bool = False) -> None:
        super().__init__(2 if attention else 1)
        self.attends = attention
        if attention:
            self.anomaly = AnomalyNetwork().requires_grad_(False)

    def train(self, mode: bool = True) -> LabelEfficientSegmenter:
        super().train(mode)
        if self.attends:
            self.anomaly.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.attends:
            with torch.no_grad():
                heat = anomaly_heat(self.anomaly(x), (x.shape[2], x.shape[3]))
            x = torch.cat([x, heat.to(x)], dim=1)
        logit = super().forward(x)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


@dataclass(frozen=True)
class TransferReport:
    """What was copied from a pretrained network.

    Attributes:
        copied, missing: names of the target's tensors that were, and were not, found with their shape.
        unused: names of the source's tensors that have no place.
    """

    copied: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def text(self) -> str:
        """For people: one line, and the names of what does not match."""
        lines = [f"{len(self.copied)} of {len(self.copied) + len(self.missing)} tensors copied"]
        lines += [f"  not in the source: {name}" for name in self.missing]
        lines += [f"  not in the target: {name}" for name in self.unused]
        return "\n".join(lines)


def transfer(target: nn.Module, source: Mapping[str, Tensor], needed: tuple[str, ...] = ENCODER) -> TransferReport:
    """Copy weights by name and shape.

    Args:
        target: the network to fine-tune.
        source: weights of a pretrained one.
        needed: every tensor of the target whose name begins with one of these must be in the source; anything else may
            be missing.

    Raises:
        IchsegError: one of those is missing, or has another shape: the pretrained network was not of this kind. Nothing
            is copied then.
    """
    own = target.state_dict()
    fits = [name for name, value in own.items() if name in source and source[name].shape == value.shape]
    missing = [name for name in own if name not in fits]
    if bad := [name for name in missing if name.startswith(needed)]:
        had = f"has shape {tuple(source[bad[0]].shape)}" if bad[0] in source else "is missing"
        total = sum(name.startswith(needed) for name in own)
        raise IchsegError(
            f"only {total - len(bad)} of {total} tensors of the encoder match the pretrained weights: '{bad[0]}' {had}"
        )
    target.load_state_dict({**own, **{name: source[name] for name in fits}})
    return TransferReport(tuple(fits), tuple(missing), tuple(name for name in source if name not in own))
