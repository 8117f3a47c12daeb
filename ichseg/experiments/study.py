"""What the experiments share: trained classifiers, scores, maps, pseudo-masks, U-Nets, each made once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichseg.bundle import config_values, parse_settings, run_bundle
from ichseg.data import check_folds, load_datalist, parse_folds
from ichseg.data.datalist import images_hash
from ichseg.defaults import MASK_ARCHITECTURES, PAPER_EPOCHS, PAPER_SIZE, TEST_FOLDS, TRAIN_FOLDS, VAL_FOLDS
from ichseg.devices import pick_device
from ichseg.errors import IchsegError
from ichseg.evaluation.truth import TrueScan, compare, prediction_file, true_scans
from ichseg.experiments.ablation import Row
from ichseg.experiments.counting import Chains, fold_of, read_counts, rule_of, write_counts
from ichseg.experiments.sweep import Counts
from ichseg.io import scan_name
from ichseg.networks import classifier_settings, segmenter_settings
from ichseg.overrides import check_numbers
from ichseg.provenance import Record

# Keys of the pseudo-mask config that make the difference between rows, or that a study sets itself.
OF_THE_ROWS = {
    "method", "cam_layers", "layers", "rule", "threshold", "classifiers", "folds", "size", "datalist", "dataset_dir",
    "output_dir", "maps_dir", "precision", "device_name",
}  # fmt: skip
REAL = "real"
IMPLANTS = "implants"


@dataclass
class Study:
    """One output folder and the settings everything in it was made with.

    Args:
        datalist: what is trained on and evaluated on.
        output: folder; what is there already is not made again.
        benchmark: a second datalist to evaluate on, e.g. implants; its figures are never pooled with the first's.
        classifiers: folder of trained classifiers ``<backbone>/model.pt`` to use instead of training some.
        size: pixels per side.
        epochs: at most, of classifiers and U-Net.
        train_folds, val_folds, test_folds: of the datalist.
        batch_size: in training; None for the bundles' own.
        precision: ``"fp32"`` or ``"bf16"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        architecture: of the U-Net, ``"small"`` or ``"paper"``.
        settings: ``KEY=VALUE`` for the pseudo-mask bundle, in every row, e.g. ``"gate_by=label"``.
        progress: wraps long iterations.

    Raises:
        IchsegError: the output was made with other settings, data or weights; the size does not suit the networks;
            no set has masks; a setting belongs to the rows.
    """

    datalist: Path
    output: Path
    benchmark: Path | None = None
    classifiers: Path | None = None
    size: int = PAPER_SIZE
    epochs: int = PAPER_EPOCHS
    train_folds: str = TRAIN_FOLDS
    val_folds: str = VAL_FOLDS
    test_folds: str = TEST_FOLDS
    batch_size: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    architecture: str = MASK_ARCHITECTURES[0]
    settings: Sequence[str] = ()
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
    _ensembles: dict[tuple[str, int], torch.nn.Module] = field(default_factory=dict)
    _values: dict[str, Any] = field(default_factory=dict)
    _record: Record = field(init=False)

    def __post_init__(self) -> None:
        for name in ("datalist", "output", "benchmark", "classifiers"):
            given = getattr(self, name)
            setattr(self, name, None if given is None else Path(given).resolve())
        # Everything that can be wrong is told before anything is written.
        self._values = parse_settings("ich_pseudo_segmentation", "inference.yaml", self.settings)
        for key in sorted(set(self._values) & OF_THE_ROWS):
            raise IchsegError(f"--set {key}: each table row sets this itself")
        check_numbers({"size": self.size, "epochs": self.epochs, "batch_size": self.batch_size})
        pick_device(self.device)
        parts = {"training": self.train_folds, "validation": self.val_folds, "test": self.test_folds}
        check_folds(self.datalist, **parts)
        if not self.sets:
            raise IchsegError(f"{self.datalist}: no scan has a mask (key 'label'); there is nothing to compare with")
        if self.classifiers is not None and not list(self.classifiers.glob("*/model.pt")):
            raise IchsegError(f"{self.classifiers}: no <backbone>/model.pt in this folder")
        self._record = self._same_as_before()

    def _same_as_before(self) -> Record:
        """What everything in the output depends on, compared with what was written there before.

        Data and weights are known by their content, not by their path; a benchmark may be added later.
        """
        given = {} if self.classifiers is None else {p.parent.name: p for p in self.classifiers.glob("*/model.pt")}
        settings: dict[str, Any] = {
            "datalist": _digest(self.datalist),
            "images": images_hash(self.datalist),
            "benchmark": None if self.benchmark is None else _digest(self.benchmark),
            "benchmark_images": None if self.benchmark is None else images_hash(self.benchmark),
            "classifiers": {name: _digest(path) for name, path in sorted(given.items())},
            "size": self.size,
            "epochs": self.epochs,
            "folds": [sorted(set(parse_folds(f))) for f in (self.train_folds, self.val_folds, self.test_folds)],
            "batch_size": self.batch_size,
            "precision": self.precision,
            "architecture": self.architecture,
            "settings": list(self.settings),
        }
        record = Record(self.output, settings, optional=("benchmark", "benchmark_images", "images"))
        record.check()
        return record

    def claim(self) -> None:
        """Say in the output what it is made with, before anything is made."""
        self._record.write()

    # --- data ---------------------------------------------------------------------------------------------------
    @property
    def sets(self) -> list[str]:
        """Names of the data sets with masks, which are evaluated apart from each other."""
        given = [REAL] if self.benchmark is None else [REAL, IMPLANTS]
        return [which for which in given if any("label" in scan for scan in load_datalist(self.path(which)))]

    def path(self, which: str) -> Path:
        """The datalist of a set."""
        if which == IMPLANTS and self.benchmark is not None:
            return self.benchmark
        return self.datalist

    def scans(self, which: str) -> list[TrueScan]:
        """Scans of a set whose truth is known."""
        return true_scans(self.path(which))

    @property
    def evaluated_folds(self) -> tuple[int, ...]:
        """Folds no network was trained on."""
        return parse_folds(f"{self.val_folds},{self.test_folds}")

    # --- training -----------------------------------------------------------------------------------------------
    def weights(self, backbone: str, size: int) -> Path:
        """The trained classifier, trained now if it is not there."""
        if self.classifiers is not None:
            file = self.classifiers / backbone / "model.pt"
            if not file.is_file():
                raise IchsegError(f"{file}: weight file not found (--classifiers)")
            return file
        folder = self.output / "classifiers" / str(size) / backbone
        overrides = {**self._training(), "backbone": backbone, "size": size, "output_dir": folder}
        self._once(folder, lambda: run_bundle("ich_slice_classification", "train.yaml", overrides))
        return folder / "model.pt"

    def unet(self, name: str, size: int, pseudo: Path | None) -> Path:
        """A trained U-Net: on pseudo-masks, or without them on the datalist's own masks."""
        folder = self.output / "unet" / name
        overrides = {
            **self._training(),
            "architecture": self.architecture,
            "size": size,
            "output_dir": folder,
            "pseudo_dir": pseudo,
            "supervision": "masks" if pseudo is None else "pseudo",
        }
        self._once(folder, lambda: run_bundle("ich_segmentation", "train_paper.yaml", overrides))
        return folder / "model.pt"

    def segment(self, name: str, weights: Path, size: int, which: str) -> Path:
        """Folder of the U-Net's masks of a set's validation and test scans."""
        folder = self.output / "masks" / which / name
        overrides = {
            "dataset_dir": self.path(which).parent,
            "data_root_dir": "",  # masks lie flat in the folder, as names in a datalist are unique
            "output_dir": folder,
            "weights": weights,
            "precision": self.precision,
            "device_name": self.device,
            "dataset::data": {
                "_target_": "ichseg.data.load_masked",
                "path": self.path(which),
                "folds": list(self.evaluated_folds),
                "supervision": "masks",
            },
        }
        pipeline = segmenter_settings(weights).pipeline
        self._once(folder, lambda: run_bundle("ich_segmentation", pipeline, overrides))
        return folder

    def pseudo_masks(self, which: str, row: Row, pair: Sequence[str], size: int, threshold: float) -> Path:
        """Folder of the pseudo-masks of every scan of a set."""
        folder = self.output / "pseudo" / which / f"{'+'.join(pair)}_{size}_{threshold:.2f}"
        chosen = [pair[m] for m in row.models]
        overrides = {
            **self._generate(chosen, size),
            **row.overrides(pair),
            "classifiers": {b: self.weights(b, size) for b in chosen},
            "datalist": self.path(which),
            "output_dir": folder,
            "threshold": threshold,
        }
        self._once(folder, lambda: run_bundle("ich_pseudo_segmentation", "inference.yaml", overrides))
        return folder

    # --- measuring ----------------------------------------------------------------------------------------------
    def sweep(
        self, which: str, pair: Sequence[str], size: int, rows: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Counts]:
        """Counts of every row over the scans of a set whose truth is known.

        Every scan is read, resized and scored once; maps are kept in the output's ``maps``, counts per scan and row in
        ``counts``, so that a run goes on where it stopped and the next experiment starts from there.

        Args:
            which: the set.
            pair: the backbones.
            size: pixels per side.
            rows: name -> values of the pseudo-mask config, which may hold ``models`` (indices into the pair) and
                ``threshold``; without one, every threshold is counted.
        """
        folder = self.output / "counts" / which / f"{'+'.join(pair)}_{size}"
        scans = self.scans(which)
        files = {(name, s.case): folder / name / f"{scan_name(s.stem)}.npz" for name in rows for s in scans}
        lacking = [s for s in scans if any(not files[name, s.case].is_file() for name in rows)]
        if lacking:
            chains = self._chains(pair, size, rows)
            print(f"{which} scans, {' and '.join(pair)} at {size}: {', '.join(rows)}")
            self._record.write()
            for scan in self.progress(lacking):
                todo = [name for name in rows if not files[name, scan.case].is_file()]
                for name, counts in chains.run(scan, todo).items():
                    write_counts(files[name, scan.case], counts)
        return {name: Counts.joined([read_counts(files[name, s.case]) for s in scans]) for name in rows}

    def mask_counts(self, which: str, folder: Path, folds: Sequence[int] | None = None) -> Counts:
        """Counts of saved masks, over the scans of a set whose truth is known, perhaps only of some folds."""
        parts = []
        for scan in self.scans(which):
            if folds is None or fold_of(scan) in folds:
                pair = compare(scan, prediction_file(folder, scan.stem, scan.case))
                parts.append(Counts.of_scan(pair.prediction.astype(np.float32), pair.truth, scan.case, fold_of(scan)))
        if not parts:
            raise IchsegError(f"{self.path(which)}: no scan with a known mask in folds {list(folds or [])}")
        return Counts.joined(parts)

    def rule_counts(self, which: str) -> Counts:
        """Counts of the HU threshold rule, which learns nothing."""
        folder = self.output / "counts" / which / "hu_rule"
        files = {scan.case: folder / f"{scan_name(scan.stem)}.npz" for scan in self.scans(which)}
        lacking = [scan for scan in self.scans(which) if not files[scan.case].is_file()]
        if lacking:
            self._record.write()
            print(f"{which} scans, HU rule (no learning)")
            for scan in self.progress(lacking):
                write_counts(files[scan.case], rule_of(scan))
        return Counts.joined([read_counts(file) for file in files.values()])

    def _chains(self, pair: Sequence[str], size: int, rows: Mapping[str, Mapping[str, Any]]) -> Chains:
        from ichseg.networks import load_ensemble

        key = ("+".join(pair), size)
        if key not in self._ensembles:
            self._ensembles[key] = load_ensemble({b: self.weights(b, size) for b in pair})
        return Chains(
            self._ensembles[key], {name: dict(values) for name, values in rows.items()}, self._generate(pair, size)
        )

    def _generate(self, backbones: Sequence[str], size: int) -> dict[str, Any]:
        """Values of the pseudo-mask config that all rows share."""
        trained = classifier_settings({b: self.weights(b, size) for b in backbones})
        if trained.size != size:
            raise IchsegError(f"the classifiers were trained at size {trained.size}: give --size {trained.size}")
        return {
            "classifiers": {b: self.weights(b, size) for b in backbones},
            "precision": self.precision,
            "device_name": self.device,
            "maps_dir": self.output / "maps",
            **self._values,
        }

    @property
    def gating(self) -> dict[str, Any]:
        """The values of the pseudo-mask config that say which slices may get a mask."""
        known = {**config_values("ich_pseudo_segmentation", "inference.yaml"), **self._values}
        return {key: known[key] for key in ("gate", "gate_rule", "gate_by")}

    def _training(self) -> dict[str, Any]:
        return {
            "datalist": self.datalist,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "train_folds": list(parse_folds(self.train_folds)),
            "val_folds": list(parse_folds(self.val_folds)),
            "precision": self.precision,
            "device_name": self.device,
        }

    def _once(self, folder: Path, make: Callable[[], None]) -> None:
        """Make what belongs into the folder unless a mark says that it is all there."""
        name = str(folder.relative_to(self.output))

        def tell() -> None:
            self._record.write()
            print(f"making {name} ...", flush=True)

        Record(folder, {"name": name}).once(make, tell)


def _digest(path: Path) -> str:
    """Content of a file; for a datalist, of the true masks it names too."""
    digest = hashlib.sha256(path.read_bytes())
    if path.suffix == ".json":
        for scan in load_datalist(path):
            if "label" in scan:
                digest.update(Path(scan["label"]).read_bytes())
    return digest.hexdigest()[:16]
