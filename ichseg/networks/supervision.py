"""Dense supervision of a classifier's shallow stages, while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class DeeplySupervised(nn.Module):
    """A slice classifier whose stages also have to say, pixel by pixel, where implanted blood is.

    Called like the classifier and returning its logits; while training, ``mask_logits`` holds one (B, 1, h, w) map
    per supervised stage of the last batch. The heads are 1 x 1 convolutions and are not part of the classifier.

    Args:
        classifier: (B, 1, H, W) -> logits.
        layers: module paths of the supervised stages.
    """

    def __init__(self, classifier: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.classifier = classifier
        self.layers = list(layers)
        self.mask_logits: list[Tensor] = []
        self._features: dict[str, Tensor] = {}
        for name in self.layers:
            classifier.get_submodule(name).register_forward_hook(self._keep(name))
        with torch.no_grad():
            training = classifier.training
            classifier.eval()(torch.zeros(1, 1, 64, 64))
            classifier.train(training)
        self.heads = nn.ModuleList(nn.Conv2d(self._features[name].shape[1], 1, 1) for name in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(x)
        self.mask_logits = []
        if self.training:
            self.mask_logits = [
                head(self._features[name]).float() for head, name in zip(self.heads, self.layers, strict=True)
            ]
        self._features = {}
        return logits

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._features[name] = output

        return hook
