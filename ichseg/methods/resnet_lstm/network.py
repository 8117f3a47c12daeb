"""A classifier of every slice that has read the ones around it, and its maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from monai.networks.nets import resnet18, resnet34
from torch import Tensor, nn
from torch.nn import functional

from ichseg.cam import grad_cam, min_max
from ichseg.cam.extractor import evaluation_mode
from ichseg.context import upsample
from ichseg.errors import IchsegError

LENGTH = 9  # slices of a window, odd
ENCODERS = {"resnet18": (resnet18, 512), "resnet34": (resnet34, 512)}
POSITIVE = 0.5


class SliceSequenceClassifier(nn.Module):
    """(B, T, 1, H, W) -> logits (B, T): ResNet per slice, mean over space, LSTM in both directions, linear layer.

    Args:
        encoder: ``"resnet18"`` or ``"resnet34"``.
        hidden: units of the LSTM in each direction; 0: no LSTM, every slice alone.
        dropout: before the LSTM.
    """

    def __init__(self, encoder: str = "resnet18", hidden: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        if encoder not in ENCODERS:
            raise IchsegError(f"encoder '{encoder}' is unknown; choose one of {', '.join(ENCODERS)}")
        build, features = ENCODERS[encoder]
        # MONAI's default stride of 1 in the stem would double the size of every stage.
        self.encoder = build(
            spatial_dims=2, n_input_channels=1, num_classes=1, conv1_t_stride=2, pretrained=False, feed_forward=False
        )
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True) if hidden else None
        self.head = nn.Linear(2 * hidden if hidden else features, 1)

    def features(self, x: Tensor) -> Tensor:
        """(B, T, 1, H, W) -> (B T, K, h, w) of the last stage."""
        one = self.encoder
        x = one.maxpool(one.act(one.bn1(one.conv1(x.flatten(0, 1)))))
        return one.layer4(one.layer3(one.layer2(one.layer1(x))))

    def classify(self, features: Tensor, batch: int) -> Tensor:
        """(B T, K, h, w) -> logits (B, T)."""
        tokens = self.dropout(features.mean(dim=(2, 3)).reshape(batch, -1, features.shape[1]))
        if self.lstm is not None:
            tokens, _ = self.lstm(tokens)
        return self.head(tokens)[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x), len(x))


def windows(count: int, length: int = LENGTH) -> Tensor:
    """(count, length) indices: a window around every slice of a scan; at the ends the last slice is repeated.

    Raises:
        IchsegError: an even length, which has no middle.
    """
    if length < 1 or length % 2 == 0:
        raise IchsegError(f"a window must have an odd number of slices, not {length}")
    away = torch.arange(length) - length // 2
    return (torch.arange(count)[:, None] + away).clamp(0, count - 1)


def sequence_loss(logits: Tensor, labels: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Cross entropy of every slice; where the label is -1 (padding, not known), there is none.

    Args:
        logits, labels: (B, T).
        positive_weight: of a positive slice; negatives per positive in the training set.
    """
    known = labels >= 0
    each = functional.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0).to(logits), pos_weight=logits.new_tensor(positive_weight), reduction="none"
    )
    return (each * known).sum() / known.sum().clamp(min=1)


def sequence_maps(
    model: SliceSequenceClassifier, sequence: Tensor, beside: float = 0.0, gate: float = POSITIVE
) -> tuple[Tensor, Tensor]:
    """Grad-CAM of every slice's own logit at the last stage of the encoder.

    The LSTM stands behind the mean over space, so the weights of a linear layer cannot give a CAM.

    Args:
        model: the classifier.
        sequence: (T, 1, H, W), slices in order.
        gate: probability a slice needs for a map.
        beside: weight of what the other slices' logits say of a slice's features (the gradient across slices).

    Returns:
        logits (T,), and maps (T, H, W) in [0, 1]; zeros for slices below the gate.
    """
    with torch.inference_mode(False), _explained(model), torch.enable_grad():
        features = model.features(sequence[None].detach().clone()).detach().requires_grad_(True)
        logits = model.classify(features, 1)[0]
        own = torch.zeros_like(features)
        for index in range(len(logits)):
            (gradient,) = torch.autograd.grad(logits[index], features, retain_graph=index + 1 < len(logits))
            own[index] += gradient[index]
            if beside:
                others = torch.arange(len(logits), device=features.device) != index
                own[others] += beside * gradient[others]
    maps = upsample(min_max(grad_cam(features.detach(), own)), sequence.shape[-2:])
    positive = logits.detach().sigmoid() >= gate
    return logits.detach(), maps * positive[:, None, None]


@contextmanager
def _explained(model: SliceSequenceClassifier) -> Iterator[None]:
    """Evaluation mode, weights frozen; cuDNN, which refuses the LSTM's backward pass in that mode, left out."""
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluation_mode(model), torch.backends.cudnn.flags(enabled=False):
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
