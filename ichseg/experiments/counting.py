"""From a scan to its counts: by the pseudo-mask bundle's steps, or by the HU rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ichseg.bundle import BundleParts
from ichseg.context import vote
from ichseg.data.slices import slice_labels_in_order
from ichseg.errors import IchsegError
from ichseg.evaluation.hu_rule import hu_rule
from ichseg.evaluation.truth import TrueScan
from ichseg.experiments.sweep import Counts
from ichseg.io import atomic_path, read_mask, read_volume, slice_axis, spacing_mm
from ichseg.io.lay import laid_on
from ichseg.precision import lower_type

GENERATE = ("ich_pseudo_segmentation", "inference.yaml")


class Chains:
    """The pseudo-mask bundle's steps, once per row, over networks and preprocessing that the rows share."""

    def __init__(self, ensemble: torch.nn.Module, rows: dict[str, dict[str, Any]], shared: dict[str, Any]) -> None:
        from ichseg.devices import pick_device, place
        from ichseg.networks import ClassifierEnsemble

        self.networks: list[torch.nn.Module] = list(ensemble.networks)  # type: ignore[arg-type]
        base = BundleParts(*GENERATE, shared)
        self.preprocessing = base["preprocessing"]
        self.gate, self.vote = base["gate"], base["gate_rule"]
        self.device = pick_device(shared["device_name"])
        self.autocast = lower_type(shared["precision"])
        place(ensemble, self.device)
        self.rows: dict[str, tuple[list[int], Any, Any, Any]] = {}
        for name, values in rows.items():
            models = list(values.pop("models", range(len(self.networks))))
            # Each row's own network: the chosen models and no others.
            network = ClassifierEnsemble([self.networks[m] for m in models], values["cam_layers"]).eval()
            made = {"network": network, "device": self.device, "preprocessing": self.preprocessing}
            parts = BundleParts(*GENERATE, {**shared, "threshold": None, **values, **made})
            steps = [parts[key] for key in ("maps", "masks", "own_grid")]
            self.rows[name] = (models, *steps)

    def run(self, scan: TrueScan, names: Sequence[str]) -> dict[str, Counts]:
        """Count the rows of one scan."""
        entry = dict(scan.entry or {"image": scan.image})
        item = self.preprocessing(entry)
        image = item["image"]
        stored = np.asarray(image.meta.get("original_affine", image.affine))
        order = slice_labels_in_order(range(image.shape[-1]), stored, np.asarray(image.affine))
        scores = self._scores(image.as_tensor())
        known: np.ndarray | None = None
        results = {}
        for name in names:
            models, maps, masks, own_grid = self.rows[name]
            one = dict(item)
            one["pred"] = probability = vote(scores[models], self.vote)
            one = masks(maps(one))
            gated = one["image_probability"] >= self.gate
            shown = own_grid(one)["pred"]
            score = np.asarray(shown[0])
            axis = slice_axis(np.asarray(shown.affine))
            if known is None:
                known = _truth(scan, score.shape, np.asarray(shown.affine))
            chosen = list(range(score.shape[axis])) if scan.slices is None else scan.slices
            score, truth = (np.moveaxis(a, axis, 0)[chosen] for a in (score, known))
            # The bundle turns scans upright; truth and score are in the order the file has.
            shown_at = np.argsort(order)[chosen]
            seen = np.asarray(probability)[shown_at], np.asarray(gated)[shown_at]
            results[name] = Counts.of_scan(score, truth, scan.case, fold_of(scan), *seen)
        return results

    def _scores(self, volume: torch.Tensor) -> torch.Tensor:
        """(models, slices) probability of hemorrhage by each classifier."""
        slices = volume[0].movedim(-1, 0)[:, None]
        cast = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.no_grad(), cast:
            found = [
                torch.cat([n(part.to(self.device)).float().softmax(1)[:, 1].cpu() for part in slices.split(16)])
                for n in self.networks
            ]
        return torch.stack(found)


def rule_of(scan: TrueScan) -> Counts:
    """Counts of the HU rule for one scan."""
    volume = read_volume(scan.image or "")
    axis = slice_axis(volume.affine)
    chosen = list(range(volume.array.shape[axis])) if scan.slices is None else scan.slices
    in_plane = [s for i, s in enumerate(spacing_mm(volume.affine)) if i != axis]
    truth = _truth(scan, volume.array.shape, volume.affine)
    hounsfield, truth = (np.moveaxis(a, axis, 0)[chosen] for a in (volume.array, truth))
    mask = np.stack([hu_rule(one, (in_plane[0], in_plane[1])) for one in hounsfield])
    return Counts.of_scan(mask.astype(np.float32), truth, scan.case, fold_of(scan))


def _truth(scan: TrueScan, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """The true mask with its axes as those of the scan; nothing where there is none."""
    if scan.label is None:
        return np.zeros(shape, bool)
    truth, own = read_mask(scan.label)
    truth = laid_on(truth, own, affine, scan.label, str(scan.image)) > 0
    if truth.shape != shape:
        raise IchsegError(f"case {scan.case}: scan {shape} and mask {truth.shape} differ in shape")
    return truth


def fold_of(scan: TrueScan) -> int:
    return int((scan.entry or {}).get("fold", -1))


def write_counts(file: Path, counts: Counts) -> None:
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **vars(counts))


def read_counts(file: Path) -> Counts:
    with np.load(file) as stored:
        return Counts(**{name: stored[name] for name in stored.files})
