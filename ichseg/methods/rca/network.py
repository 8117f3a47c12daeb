"""A classifier with a coarse and a fine head; the fine one also sees what the memory says of every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional

from ichseg.methods.dense_resnet import DenseResNet
from ichseg.methods.rca.memory import CENTERS, SURE, RegionMemory, aggregated, masked_mean, region_contrast, region_of

WIDTH = 512
HEMORRHAGE, BRAIN = 0, 1  # the two queues
COARSE, CONTRAST, MIXED = 0.4, 0.01, 8.0  # weights of two losses; both parameters of Beta for mixing


@dataclass
class RCAOutput:
    """Of a batch.

    Attributes:
        features: (B, 512, h, w).
        coarse, fine: (B, h, w) maps of hemorrhage, whose means are logits.
    """

    features: Tensor
    coarse: Tensor
    fine: Tensor


class RCA(nn.Module):
    """(B, 1, H, W) -> :class:`RCAOutput` at an eighth of the slice.

    Args:
        classifier: a trained ResNet slice classifier, which goes on learning.
    """

    centers: Tensor
    passes: Tensor

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.dense = DenseResNet(classifier)
        self.reduce = nn.Conv2d(self.dense.channels[-1], WIDTH, 1)
        self.coarse, self.fine = _head(), _head()
        self.query = nn.Conv2d(WIDTH, WIDTH, 1)
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.told = nn.Conv2d(WIDTH, WIDTH, 1)
        self.joined = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.project = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1))
        self.memory = RegionMemory(2, WIDTH)
        self.register_buffer("centers", torch.zeros(2 * CENTERS, WIDTH))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> RCAOutput:
        features = self.reduce(self.dense(x)[-1]).relu()
        # Similarities are summed over hundreds of channels, without a softmax: of unit vectors, they stay small.
        told = aggregated(functional.normalize(features, dim=1), self.centers, self.query, self.key, self.value)
        fine = self.fine(self.joined(torch.cat([self.told(told), features], dim=1)).relu())
        return RCAOutput(features, self.coarse(features)[:, 0], fine[:, 0])

    @torch.no_grad()
    def refresh(self, seed: int = 0) -> None:
        """k-means centers of the queues, of unit vectors: once before every pass, which is counted."""
        self.passes += 1
        rows = []
        for queue in functional.normalize(self.memory.slots, dim=2).cpu().numpy().astype(np.float64):
            rows.append(kmeans2(queue, CENTERS, minit="++", seed=seed)[0])
        self.centers.copy_(torch.from_numpy(np.concatenate(rows)).to(self.centers))


class RCALoss(nn.Module):
    """Soft margin of the fine logit, plus .4 of the coarse one's, plus .01 of the regions' contrast from the second
    pass on. In training, sure slices also enter the memory.

    Args:
        network: whose memory and projection.
    """

    def __init__(self, network: RCA) -> None:
        super().__init__()
        self.network = network

    def forward(self, output: RCAOutput, batch: dict[str, Tensor]) -> Tensor:
        """Scalar for a batch with ``label`` (B,) 0 or 1."""
        label = batch["label"].float()
        fine, coarse = output.fine.mean(dim=(1, 2)), output.coarse.mean(dim=(1, 2))
        loss = functional.binary_cross_entropy_with_logits(fine, label)
        loss = loss + COARSE * functional.binary_cross_entropy_with_logits(coarse, label)
        region = region_of(output.coarse)
        if self.network.training and int(self.network.passes) > 1 and len(label) > 1:
            loss = loss + CONTRAST * self._contrast(output.features, region, label)
        if self.network.training:
            self._remember(output.features.detach(), region, label, fine.detach().sigmoid())
        return loss

    def _contrast(self, features: Tensor, region: Tensor, label: Tensor) -> Tensor:
        embedding = masked_mean(self.network.project(features), region)
        share = float(torch.distributions.Beta(MIXED, MIXED).sample())
        other = torch.randperm(len(label), device=label.device)
        mixed = share * embedding + (1 - share) * embedding[other]
        kinds = torch.where(label > 0, HEMORRHAGE, BRAIN)
        memory = self.network.memory.slots
        each = [
            share * region_contrast(one, memory, int(own)) + (1 - share) * region_contrast(one, memory, int(its))
            for one, own, its in zip(mixed, kinds, kinds[other], strict=True)
        ]
        return torch.stack(each).mean()

    def _remember(self, features: Tensor, region: Tensor, label: Tensor, probability: Tensor) -> None:
        embedding = masked_mean(features, region)
        for one, bleeds, p in zip(embedding, label, probability, strict=True):
            if bleeds and p > SURE:
                self.network.memory.put(HEMORRHAGE, one)
            elif not bleeds and 1 - p > SURE:
                self.network.memory.put(BRAIN, one)


def _head() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 1))
