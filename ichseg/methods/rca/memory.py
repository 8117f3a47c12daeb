"""Queues of region embeddings, one of hemorrhage and one of brain without it (decision D26), and their use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LENGTH, KEPT, SURE = 500, 0.99, 0.7
CENTERS, SHARPER = 10, 20 / 10
TEMPERATURE = 0.07


class RegionMemory(nn.Module):
    """(classes, length, channels): starts as random normals and is overwritten slot by slot.

    Args:
        classes: 2, hemorrhage and brain without: with one class nothing would be a negative.
        channels: of an embedding.
        length: slots per class.
        kept: ``slot = kept * slot + (1 - kept) * embedding``.
    """

    slots: Tensor
    pointer: Tensor

    def __init__(self, classes: int = 2, channels: int = 512, length: int = LENGTH, kept: float = KEPT) -> None:
        super().__init__()
        self.kept = kept
        self.register_buffer("slots", torch.randn(classes, length, channels))
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def put(self, kind: int, embedding: Tensor) -> None:
        """Mix one embedding (channels,) into the next slot of a class; after the last comes the first."""
        place = int(self.pointer[kind])
        self.slots[kind, place] = self.kept * self.slots[kind, place] + (1 - self.kept) * embedding
        self.pointer[kind] = (place + 1) % self.slots.shape[1]


def region_of(maps: Tensor) -> Tensor:
    """(..., h, w) -> bool: where a coarse map exceeds its own mean."""
    return maps > maps.mean(dim=(-2, -1), keepdim=True)


def masked_mean(features: Tensor, region: Tensor) -> Tensor:
    """(B, K, h, w) features and (B, h, w) bool -> (B, K): the mean within the region; zeros for an empty one."""
    weight = region.to(features).unsqueeze(1)
    return (features * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1)


def aggregated(features: Tensor, centers: Tensor, query: nn.Module, key: nn.Module, value: nn.Module) -> Tensor:
    """What the memory says of every pixel: ``(Q K^T) V`` scaled by 20 / 10, without a softmax.

    Args:
        features: (B, K, h, w).
        centers: (N, K), k-means centers of the queues.
        query: 1 x 1 convolution of the features.
        key, value: linear layers of the centers.

    Returns:
        (B, D, h, w).
    """
    asked = query(features)
    similarity = torch.einsum("bdhw,nd->bnhw", asked, key(centers)) * SHARPER
    return torch.einsum("bnhw,nd->bdhw", similarity, value(centers))


def region_contrast(embedding: Tensor, memory: Tensor, kind: int, temperature: float = TEMPERATURE) -> Tensor:
    """InfoNCE of one region embedding against the queues: its own class is positive, the others are negative.

    Args:
        embedding: (channels,).
        memory: (classes, length, channels).
        kind: class of the embedding.

    Returns:
        scalar, the mean over the positives.
    """
    similarity = functional.normalize(memory, dim=2) @ functional.normalize(embedding, dim=0) / temperature
    others = torch.cat([similarity[other] for other in range(len(similarity)) if other != kind])
    against = torch.logsumexp(others, dim=0)
    return (torch.logaddexp(similarity[kind], against) - similarity[kind]).mean()
