"""Slices with what is known of them, in batches: what the baselines' networks learn from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ichseg.methods.dense_resnet import LEFT_RIGHT

logger = logging.getLogger(__name__)


class Examples:
    """Batches of tensors of one length, in a new order every time; left and right change places at random.

    Args:
        tensors: name -> (n, ...) tensor; those of three axes or more end with rows and columns.
        batch_size: at most so many in a batch.
        shuffle: False keeps the order and flips nothing.
        flipped: the axis from left to right.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], batch_size: int, shuffle: bool = True, flipped: int = LEFT_RIGHT
    ) -> None:
        self.tensors, self.batch_size, self.shuffle, self.flipped = dict(tensors), batch_size, shuffle, flipped
        self.count = len(next(iter(self.tensors.values())))
        if any(len(tensor) != self.count for tensor in self.tensors.values()):
            raise ValueError("the tensors differ in length")

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(self.count) if self.shuffle else torch.arange(self.count)
        for places in order.split(self.batch_size):
            turned = torch.rand(len(places)) < 0.5 if self.shuffle else torch.zeros(len(places), dtype=torch.bool)
            batch = {}
            for name, tensor in self.tensors.items():
                values = tensor[places].float() if tensor.is_floating_point() else tensor[places]
                if values.ndim > 2:
                    values[turned] = values[turned].flip(self.flipped)
                batch[name] = values
            yield batch


def chunks(images: Tensor, batch_size: int = 8) -> Iterator[Tensor]:
    """Slices (n, 1, H, W) a few at a time, in float32."""
    for some in images.split(batch_size):
        yield some.float()


def labeled_examples(
    slices: Mapping[str, Tensor],
    labels_of: Callable[[Tensor], Tensor],
    batch_size: int,
    device: torch.device,
    ignored: int,
) -> dict[str, Examples]:
    """Slices with labels of their pixels, made once: ``image`` and ``labels``; those to ``train`` are shuffled.

    Args:
        slices: ``train`` and ``validate``, each (n, 1, H, W).
        labels_of: (B, 1, H, W) on the device -> labels (B, h, w).
        batch_size, device: of the training.
        ignored: label of pixels that teach nothing; where all are such, the log says so.
    """
    found = {}
    for name, images in slices.items():
        labels = torch.cat([labels_of(some.to(device)).cpu() for some in chunks(images)])
        if (labels == ignored).all():
            logger.warning("no confident pixels in the slices to %s: the classifier's maps are empty", name)
        found[name] = Examples({"image": images, "labels": labels}, batch_size, shuffle=name == "train")
    return found
