"""What all methods of a comparison share: data, budget, and the steps that more than one of them takes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism
from torch import Tensor, nn

from ichseg.bundle import BundleParts, config_values, run_bundle
from ichseg.data import SliceDataset, load_datalist, parse_folds
from ichseg.data.datalist import datalist_hash, images_hash, patient_name
from ichseg.defaults import MASK_ARCHITECTURES, PAPER_PAIR
from ichseg.devices import pick_device
from ichseg.errors import IchsegError
from ichseg.io import write_text
from ichseg.methods.slice_masks import MaskMaker, SliceMasksd
from ichseg.networks import load_weights, read_settings, slice_classifier
from ichseg.networks.classifiers import ClassifierSettings
from ichseg.presets import Plan, segment
from ichseg.presets.preset import trained, training_values
from ichseg.provenance import RECORD, Record, file_hash, network_hash, value_hash
from ichseg.training import FitSettings

logger = logging.getLogger(__name__)
VALIDATED = 4  # one in so many patients with masks validates, where the validation folds have none
CLASSIFIER = ("ich_slice_classification", "train.yaml")
SEGMENTER = ("ich_segmentation", "train_paper.yaml")
GENERATE = ("ich_pseudo_segmentation", "inference.yaml")
BACKBONE = "resnet50"  # of the baselines that take one network


@dataclass(frozen=True)
class Scans:
    """Some folds of a datalist."""

    datalist: Path
    folds: str


@dataclass(frozen=True)
class Bench:
    """One output folder of a comparison.

    Attributes:
        plan: datalist, folds, device, precision; its output is the comparison's.
        size: pixels per side, of every network.
        epochs: passes over the training slices, at most, of every network.
        architecture: of the U-Net that learns from pseudo-masks.
        untrained: controls: every network gets one pass with a learning rate of 0.
        given: backbone -> weights of a slice classifier to use instead of training one.
        implants: of which masks are made in place of the held-out scans: drawn hemorrhage in scans of the test folds.
        gating: values of the pseudo-mask bundle that say which slices may get a mask, of methods that do not say it
            themselves.
    """

    plan: Plan
    size: int
    epochs: int
    architecture: str = MASK_ARCHITECTURES[0]
    untrained: bool = False
    given: Mapping[str, Path] = field(default_factory=dict)
    implants: Path | None = None
    gating: Mapping[str, Any] = field(default_factory=lambda: {"gate_by": "label"})

    def folder(self, *names: str) -> Path:
        """Where something is kept; controls lie apart."""
        return self.plan.output.joinpath("untrained" if self.untrained else "trained", *names)

    def made(self, name: str, *names: str) -> Path:
        """Where a method keeps what it makes of the measured scans."""
        return self.folder(name, *([] if self.implants is None else ["implants"]), *names)

    def values(self, folder: Path, **more: Any) -> dict[str, Any]:
        """Values of a training config: the data, the budget, and some more."""
        budget = {"epochs": 1, "learning_rate": 0.0} if self.untrained else {"epochs": self.epochs}
        return {**training_values(self.plan, folder), "size": self.size, **budget, **more}

    # --- steps --------------------------------------------------------------------------------------------------
    def trained(self, name: str, bundle: str, config: str, **more: Any) -> Path:
        """Weights of a bundle's training, made once of the same files and folders."""
        folder = self.folder(name)
        inputs = {key: content_hash(value) for key, value in more.items() if isinstance(value, Path)}
        if more.get("supervision") == "masks" or bundle == "label_efficient":
            inputs["masks"] = datalist_hash(self.plan.datalist)
        logger.info("%s: training (%s)", name, bundle)
        return trained(config, folder, self.values(folder, **more), (), bundle, inputs)

    def classifier(self, backbone: str = BACKBONE, pretrained: bool = False) -> Path:
        """The slice classifier that all methods with this backbone start from.

        Args:
            backbone: one of :data:`ichseg.defaults.BACKBONES`.
            pretrained: start from the ImageNet weights of the installed package.
        """
        if backbone in self.given and not (pretrained or self.untrained):
            return self.given[backbone]
        start: dict[str, Any] = {"init_weights": "imagenet"} if pretrained else {}
        name = f"classifiers/{backbone}{'_imagenet' if pretrained else ''}"
        return self.trained(name, *CLASSIFIER, backbone=backbone, **start)

    def network(self, backbone: str = BACKBONE) -> nn.Module:
        """The same with its weights."""
        return load_weights(slice_classifier(backbone), self.classifier(backbone)).eval()

    def fitted(self, name: str, fit: Callable[..., Path], slices: Any, network: nn.Module) -> Path:
        """Weights of one of the trainings in :mod:`ichseg.methods`, made once."""
        folder = self.folder(name)
        settings = read_settings(self.classifier(), ClassifierSettings)
        start = network_hash(network)
        made = FitSettings(name.split("/")[0], self.size, settings.window_level, settings.window_width, start)
        epochs = 1 if self.untrained else self.epochs

        def make() -> None:
            set_determinism(self.plan.seed)
            more = {"learning_rate": 0.0} if self.untrained else {}
            fit(network, slices, folder, made, epochs, self.device, **more)

        self.once(folder, make, classifier=start, epochs=epochs, strip_skull=settings.strip_skull)
        return folder / "model.pt"

    def generated(self, folder: Path, bundle: str, config: str, scans: Scans, **more: Any) -> Path:
        """The folder, with the masks that a bundle makes of some scans, once."""
        values = {
            "datalist": scans.datalist, "output_dir": folder, "folds": list(parse_folds(scans.folds)),
            "device_name": self.plan.device, "precision": self.plan.precision, **more,
        }  # fmt: skip
        inputs = {key: content_hash(value) for key, value in more.items()}
        self.once(folder, lambda: run_bundle(bundle, config, values), scans, folds=scans.folds, **inputs)
        return folder

    def masked(
        self, folder: Path, maker: MaskMaker, scans: Scans, gating: Mapping[str, Any] | None = None, **inputs: Any
    ) -> Path:
        """The folder, with the masks that a function of slices makes of some scans, once.

        Args:
            folder: for the masks.
            maker: see :class:`ichseg.methods.slice_masks.SliceMasksd`.
            scans: which.
            gating: in place of the bench's own.
            **inputs: what the maker was made of: weights, and values.
        """
        gating = self.gating if gating is None else gating
        predicted = gating["gate_by"] != "label"
        gate = {**config_values(*GENERATE), **gating}["gate"]
        backbones = PAPER_PAIR if predicted else (BACKBONE,)
        classifiers = {backbone: self.classifier(backbone) for backbone in backbones}

        def make() -> None:
            values: dict[str, Any] = {
                "datalist": scans.datalist, "output_dir": folder, "folds": list(parse_folds(scans.folds)),
                "classifiers": classifiers, **gating, "score_first": predicted,
                "device_name": self.plan.device or "auto", "precision": self.plan.precision or "fp32",
                "precision_check": 0, "masks": SliceMasksd("image", maker, gate=gate),
                "maps": {"_target_": "ichseg.transforms.GateSlicesd", "keys": "pred", "by": gating["gate_by"]},
            }  # fmt: skip
            runner = BundleParts(*GENERATE, values)["evaluator"]
            runner.run()
            runner.exit_if_failed()

        known = {"folds": scans.folds, **gating, **classifiers, **inputs}
        self.once(folder, make, scans, **{key: content_hash(value) for key, value in known.items()})
        return folder

    def unet_masks(self, name: str, pseudo: Path | None) -> Path:
        """Folder of the measured masks of a U-Net that learned from pseudo-masks, or from true ones."""
        learned = {"supervision": "masks"} if pseudo is None else {"supervision": "pseudo", "pseudo_dir": pseudo}
        weights = self.trained(f"{name}/unet", *SEGMENTER, architecture=self.architecture, **learned)
        return self.segmented(name, weights)

    def segmented(self, name: str, weights: Path) -> Path:
        """Folder of the measured masks and probabilities of a network that segments."""
        plan = replace(self.plan, output=self.made(name), datalist=self.measured.datalist)
        return segment(plan, weights, self.measured.folds)

    def once(self, folder: Path, make: Callable[[], None], scans: Scans | None = None, **inputs: Any) -> None:
        """Make what belongs into a folder unless its record says that it is all there, of the same inputs.

        Args:
            folder: may be there.
            make: fills it.
            scans: it is made of; by default the plan's.
            **inputs: what else it is made of.
        """
        datalist = self.plan.datalist if scans is None else scans.datalist
        made_of = {"name": folder.name, "datalist": datalist_hash(datalist), "images": images_hash(datalist), **inputs}
        record = Record(folder, made_of, optional=("images",))
        record.once(make, lambda: logger.info("making %s ...", folder.relative_to(self.plan.output)))

    # --- data ---------------------------------------------------------------------------------------------------
    @property
    def device(self) -> torch.device:
        return pick_device(self.plan.device or "auto")

    @property
    def learned_from(self) -> Scans:
        """The scans that pseudo-masks are made of."""
        return Scans(self.plan.datalist, f"{self.plan.train_folds},{self.plan.val_folds}")

    @property
    def measured(self) -> Scans:
        """The scans that methods make masks of: those held out, or the implants."""
        if self.implants is None:
            return Scans(self.plan.datalist, self.plan.held_out)
        return Scans(self.implants, self.plan.test_folds)

    def for_masks(self, name: str) -> Bench:
        """The same for a method that learns from masks, which needs some to validate with as well.

        Where no validation scan with hemorrhage has a mask, every fourth training patient with one validates instead
        of training.

        Raises:
            IchsegError: fewer than two training patients with hemorrhage have masks.
        """
        if masked_patients(self.plan.datalist, self.plan.val_folds):
            return self
        patients = masked_patients(self.plan.datalist, self.plan.train_folds)
        if len(patients) < 2:
            raise IchsegError(
                f"{name} learns from masks, but fewer than two training patients with hemorrhage have one"
            )
        moved = set(patients[::VALIDATED])
        scans = load_datalist(self.plan.datalist)
        fold = 1 + max(scan.get("fold", 0) for scan in scans)
        for scan in scans:
            if patient_name(scan) in moved:
                scan["fold"] = fold
        file = self.plan.output / "datalist_of_masks.json"
        text = json.dumps({"training": scans}, indent=1)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)
        return replace(self, plan=replace(self.plan, datalist=file, val_folds=f"{self.plan.val_folds},{fold}"))

    @cached_property
    def slices(self) -> dict[str, tuple[Tensor, Tensor]]:
        """``train`` and ``validate``: slices (n, 1, H, W) as the classifier sees them, and their labels (n,)."""
        made = read_settings(self.classifier(), ClassifierSettings)
        if made.size != self.size:
            raise IchsegError(f"{self.classifier()}: trained at size {made.size}, not {self.size}")
        saw = {"classifiers": {made.backbone: self.classifier()}}
        preprocessing = BundleParts(CLASSIFIER[0], "inference.yaml", saw)["preprocessing"]
        found = {}
        for name, folds in (("train", self.plan.train_folds), ("validate", self.plan.val_folds)):
            scans = load_datalist(self.plan.datalist, folds, require=("slice_labels",))
            data = SliceDataset(scans, preprocessing)
            found[name] = data.images, data.labels
        return found

    def bleeding(self) -> dict[str, Tensor]:
        """The same, slices with hemorrhage only."""
        found = {name: images[labels > 0] for name, (images, labels) in self.slices.items()}
        for name, images in found.items():
            if not len(images):
                raise IchsegError(f"no slice with hemorrhage to {name} with; choose other folds")
        return found

    def classifier_batches(self) -> int:
        """Steps in a pass over the training slices, at the recommended preset's batch size."""
        scans = load_datalist(self.plan.datalist, self.plan.train_folds, require=("slice_labels",))
        batch = int(config_values("ich_segmentation", "train_recommended.yaml")["batch_size"])
        return max(1, round(sum(len(scan["slice_labels"]) for scan in scans) / batch))


def masked_patients(datalist: Path, folds: str) -> list[str]:
    """Patients of some folds with hemorrhage and a mask."""
    scans = load_datalist(datalist, folds)
    return sorted({patient_name(scan) for scan in scans if "label" in scan and any(scan.get("slice_labels", ()))})


def content_hash(value: Any) -> Any:
    """A file by its content, a folder by its record, other values as they are."""
    if isinstance(value, Mapping):
        return value_hash({key: content_hash(one) for key, one in value.items()})
    if not isinstance(value, Path):
        return value
    return file_hash(value / RECORD if value.is_dir() else value)
