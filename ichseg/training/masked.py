"""Further training of a finished model on masks, and where its weights go."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ichseg.errors import IchsegError
from ichseg.io import atomic_path
from ichseg.networks import SegmenterSettings, read_checkpoint
from ichseg.networks.weights import without_subnormals
from ichseg.processes import is_rank_zero
from ichseg.provenance import difference
from ichseg.training.checkpoint import CHECKPOINT, FORMAT, MODEL

logger = logging.getLogger(__name__)
BEFORE = "model_before.pt"
TRAVELING = {field.name for field in fields(SegmenterSettings)}


class PrepareMasked:
    """``prepare_batch``: slices with masks, augmented, and what :class:`ichseg.training.ContextLoss` wants to know.

    Args:
        augment: of images (B, C, H, W) in [0, 1] and masks (B, 1, H, W); None, to validate: no change.
    """

    def __init__(self, augment: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> None:
        self.augment = augment

    def __call__(
        self, batch: dict[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        image, mask = (batch[key].to(device, non_blocking=non_blocking).float() for key in ("image", "label"))
        label = (mask.flatten(1).amax(dim=1) > 0).float()
        if self.augment is not None:
            image, mask = self.augment(image, mask)
        return image.contiguous(memory_format=torch.channels_last), {"mask": mask, "label": label}


def slices_of(target: dict[str, Tensor]) -> int:
    """How many slices a target of :class:`PrepareMasked` is for, to weigh batches in a mean."""
    return len(target["label"])


def run_folder(
    output_dir: str | Path | None, bundle_root: str | Path = ".", made_of: Mapping[str, Any] | None = None
) -> Path:
    """The folder of a run.

    Args:
        output_dir: the one asked for; None: a ``runs/finetuned_N`` of the bundle: one in which the same run was
            interrupted, else the first free one.
        bundle_root: the bundle.
        made_of: of :class:`ichseg.training.TrainingCheckpoint`: what makes a run the same.
    """
    if output_dir is not None:
        return Path(output_dir)
    runs = Path(bundle_root) / "runs"
    for file in sorted(runs.glob(f"finetuned_*/{CHECKPOINT}")):
        try:
            state = read_checkpoint(file)
        except IchsegError:  # what cannot be read is no run to go on with
            continue
        if state.get("format") != FORMAT:
            continue
        before = state.get("settings", {})
        # Besides them, a checkpoint has what travels in the weight file.
        same = {key: value for key, value in before.items() if key in (made_of or {}) or key not in TRAVELING}
        if not difference(same, made_of or {}):
            return file.parent
    taken = {path.name for path in runs.glob("finetuned_*")}
    return next(runs / name for n in range(1, len(taken) + 2) if (name := f"finetuned_{n}") not in taken)


class ReplaceWeights:
    """Handler for the trainer: when it has finished, its weights become the bundle's ``models/model.pt``.

    The former weights are kept as ``model_before.pt``. MONAI Label runs whatever ``model.pt`` holds. Weights that are
    still those of the start, because no epoch was better, replace nothing.

    Args:
        folder: of the run, with its ``model.pt``.
        start: weight file that the run started from.
        bundle_root: the bundle.
        enabled: False does nothing.
    """

    def __init__(
        self, folder: str | Path, start: str | Path, bundle_root: str | Path = ".", enabled: bool = True
    ) -> None:
        self.folder, self.start, self.enabled = Path(folder), Path(start), enabled
        self.models = Path(bundle_root) / "models"

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self.replace)

    def replace(self) -> None:
        """
        Raises:
            IchsegError: the bundle's folder cannot be written.
        """
        if not (self.enabled and is_rank_zero()):
            return
        own = self.models / MODEL
        # Otherwise the next run without a folder would go on with this one, which is finished.
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        if _same_weights(self.start, self.folder / MODEL):
            logger.warning("no epoch was better than the start; %s stays as it is", own)
            return
        try:
            self.models.mkdir(parents=True, exist_ok=True)
            for source, target in ((own, self.models / BEFORE), (self.folder / MODEL, own)):
                if source.is_file():
                    with atomic_path(target) as temporary:
                        shutil.copyfile(source, temporary)
        except OSError as error:
            raise IchsegError(f"{own}: cannot be replaced ({error.strerror}); weights: {self.folder / MODEL}") from None
        logger.info("%s is now %s; the former weights are %s", own, self.folder / MODEL, self.models / BEFORE)


def _same_weights(start: Path, end: Path) -> bool:
    before, after = read_checkpoint(start), read_checkpoint(end)
    return before.keys() == after.keys() and all(
        torch.equal(without_subnormals(before[key].float()), after[key].float()) for key in before
    )
