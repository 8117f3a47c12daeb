"""VGG without torchvision: the same layers under the same names, and a small head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Convolutions per stage (Simonyan and Zisserman, ICLR 2015, configurations D and E).
STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG16 or VGG19 as a slice classifier, (B, in_channels, H, W) -> logits (B, num_classes).

    ``features`` has torchvision's numbering, so its weight files fit; the pooling layers, which end the stages, are
    9 and 16 (VGG16) or 9 and 18 (VGG19) for stages 2 and 3. Global average pooling and one linear layer stand in the
    place of the three wide ones, which hold nine tenths of the weights and tie the network to one image size.

    Args:
        depth: 16 or 19.
        in_channels: of the image.
        num_classes: logits.
    """

    def __init__(self, depth: int = 16, in_channels: int = 1, num_classes: int = 2) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, not {depth}")
        layers: list[nn.Module] = []
        before = in_channels
        for count, channels in zip(STAGES[depth], CHANNELS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # without normalization, a deep stack needs it to start at all
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1))
