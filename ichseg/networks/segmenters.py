"""The U-Nets that segment: the recommended one, and those that learn from pseudo-masks."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import BasicUNet, UNet
from torch import nn

from ichseg.errors import IchsegError
from ichseg.networks.context import CHANNELS, ContextUNet, NetworkEnsemble

ARCHITECTURES = ("context", "small", "paper")


def segmenter(
    architecture: str = "small", channels: Sequence[int] = CHANNELS, members: int = 1, flip: bool = False
) -> nn.Module:
    """A 2-D U-Net with random weights, (B, 1, H, W) -> logits (B, 2, H, W); for ``"context"``, 3 -> 3 channels.

    Args:
        architecture: ``"context"``: :class:`ichseg.networks.ContextUNet`, the recommended one.
            ``"small"``: MONAI's residual UNet with 1.6 million parameters, which a CPU can run.
            ``"paper"``: the standard U-Net, up to 1,024 channels, 31 million parameters (the paper says "U-Net" and
            no more; MONAI's BasicUNet with batch normalization).
        channels: of the levels; ``"context"`` only.
        members: networks whose logits are averaged; ``"context"`` only.
        flip: average with the mirrored slice too; ``"context"`` only.

    Raises:
        IchsegError: unknown architecture.
    """
    if architecture == "context":
        return NetworkEnsemble([ContextUNet(3, channels) for _ in range(members)], flip)
    if architecture == "small":
        return UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            channels=(16, 32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            num_res_units=2,
            norm="batch",
        )
    if architecture == "paper":
        return BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=2,
            features=(64, 128, 256, 512, 1024, 64),
            act=("relu", {"inplace": True}),
            norm="batch",
        )
    raise IchsegError(f"architecture '{architecture}' is unknown; choose one of {', '.join(ARCHITECTURES)}")
