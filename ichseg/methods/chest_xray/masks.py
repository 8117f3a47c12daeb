"""From a classifier to masks: maps, boundaries, the walk that they stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ichseg.cam import CAMExtractor
from ichseg.data.slices import SliceDataset
from ichseg.errors import IchsegError
from ichseg.methods.chest_xray.grabcut import grab_cut
from ichseg.methods.dense_resnet import LEFT_RIGHT, DenseResNet, class_maps, relative
from ichseg.methods.irnet.masks import STRIDE, BoundaryMasks, train_boundaries
from ichseg.networks import ClassifierSettings, deepest_layer, load_weights, read_settings, slice_classifier
from ichseg.provenance import network_hash
from ichseg.training import FitSettings

MAPS = ("grad_cam++", "cam")
SEEDS = ("walk", "map", "grab_cut")
CAM_SHARE = 0.2  # of a map's range that a pixel must exceed, without a walk


def load_resnet(weights: str | Path) -> tuple[nn.Module, ClassifierSettings]:
    """A trained ResNet slice classifier in evaluation mode, and its settings.

    Raises:
        IchsegError: the file cannot be read, or holds another backbone.
    """
    made = read_settings(weights, ClassifierSettings)
    if not made.backbone.startswith("resnet"):
        raise IchsegError(f"{weights}: backbone '{made.backbone}'; boundaries need a ResNet")
    return load_weights(slice_classifier(made.backbone), weights).eval(), made


def seed_maps(network: nn.Module, backbone: str, kind: str) -> Callable[[Tensor], Tensor]:
    """(B, 1, H, W) -> maps (B, h, w) in [0, 1], averaged with those of the mirror images.

    Args:
        network: the classifier.
        backbone: its name.
        kind: ``"grad_cam++"`` of the last stage, or ``"cam"`` of the dilated network.

    Raises:
        IchsegError: another kind.
    """
    if kind not in MAPS:
        raise IchsegError(f"maps must be {' or '.join(MAPS)}, not '{kind}'")
    if kind == "cam":
        dense = DenseResNet(network, STRIDE).eval()
        return lambda images: class_maps(dense.to(images.device), images)

    def maps(images: Tensor) -> Tensor:
        with torch.enable_grad(), CAMExtractor(network.to(images.device), [deepest_layer(backbone)], kind) as extractor:
            both = next(iter(extractor(torch.cat([images, images.flip(LEFT_RIGHT)]))[1].values()))
        straight, mirrored = both.detach().chunk(2)
        return relative(relative(straight) + relative(mirrored.flip(LEFT_RIGHT)))

    return maps


def learn_boundaries(
    classifier: tuple[nn.Module, ClassifierSettings],
    train: SliceDataset,
    validate: SliceDataset,
    folder: str | Path,
    maps: str = MAPS[0],
    epochs: int = 10,
    batch_size: int = 24,
    learning_rate: float = 0.1,
    device: str | torch.device = "cpu",
) -> Path:
    """Train boundaries from the maps of positive slices, see :func:`ichseg.methods.irnet.train_boundaries`.

    Args:
        classifier: of :func:`load_resnet`.
        train, validate: slices with labels.
        folder: gets ``model.pt``, ``checkpoint.pt``, ``history.csv``.
        maps: see :func:`seed_maps`.
        epochs, batch_size, learning_rate, device: of the training.

    Raises:
        IchsegError: no positive slice in one of the two.
    """
    network, made = classifier
    slices = {"train": train.images[train.positive], "validate": validate.images[validate.positive]}
    for name, images in slices.items():
        if not len(images):
            raise IchsegError(f"no positive slice to {name} boundaries with")
    start = network_hash(network)
    settings = FitSettings("chest_xray", made.size, made.window_level, made.window_width, start, maps)
    return train_boundaries(network, slices, folder, settings, epochs, torch.device(device), batch_size, learning_rate,
                            seed_maps(network, made.backbone, maps))  # fmt: skip


class ChestMasks:
    """(B, 1, H, W) positive slices -> masks (B, H, W).

    Args:
        classifier: of :func:`load_resnet`.
        boundaries: weights of :func:`learn_boundaries`; needed to walk.
        maps: see :func:`seed_maps`.
        seeds: ``"walk"``: the map spreads up to the boundaries; ``"map"``: above a fifth of the map's range;
            ``"grab_cut"``: see :func:`grab_cut`.
        threshold: of the walked map, divided by its maximum.
        device: where the networks run.

    Raises:
        IchsegError: unknown maps or seeds, or no boundaries to walk with.
    """

    def __init__(
        self,
        classifier: tuple[nn.Module, ClassifierSettings],
        boundaries: str | Path | None = None,
        maps: str = MAPS[0],
        seeds: str = SEEDS[0],
        threshold: float = 0.25,
        device: str | torch.device = "cpu",
    ) -> None:
        if seeds not in SEEDS:
            raise IchsegError(f"seeds must be one of {', '.join(SEEDS)}, not '{seeds}'")
        if seeds == "walk" and boundaries is None:
            raise IchsegError(
                "seeds 'walk' needs boundaries: train them with boundaries.yaml, or choose map or grab_cut"
            )
        network, made = classifier
        self.device, self.seeds = torch.device(device), seeds
        self.maps = seed_maps(network, made.backbone, maps)
        self.walk: Any = None
        if seeds == "walk":
            self.walk = BoundaryMasks(network, boundaries, self.device, threshold, self.maps)

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device)
        if self.walk is not None:
            return self.walk(images)
        maps = self.maps(images)
        full = functional.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        low, high = full.amin(dim=(1, 2), keepdim=True), full.amax(dim=(1, 2), keepdim=True)
        if self.seeds == "map":
            return full > low + CAM_SHARE * (high - low)
        pairs = zip(images[:, 0].cpu().numpy(), full.cpu().numpy(), strict=True)
        return torch.stack([torch.from_numpy(grab_cut(image, score)) for image, score in pairs])
