"""The U-Net that learns from the pseudo-masks, in two sizes."""

from __future__ import annotations

from monai.networks.nets import BasicUNet, UNet
from torch import nn

from ichseg.errors import IchsegError

ARCHITECTURES = ("small", "paper")


def segmenter(architecture: str = "small") -> nn.Module:
    """A 2-D U-Net, (B, 1, H, W) -> logits (B, 2), with random weights.

    Args:
        architecture: ``"small"``: MONAI's residual UNet with 1.6 million parameters, which a CPU can run.
            ``"paper"``: the standard U-Net, up to 1,024 channels, 31 million parameters (the paper says "U-Net" and
            no more; MONAI's BasicUNet with batch normalization).

    Raises:
        IchsegError: unknown architecture.
    """
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
