"""Volumes as ordered slices for training 2-D networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data.utils import set_rnd
from torch.utils.data import Dataset, WeightedRandomSampler

from ichseg.errors import IchsegError, one_line
from ichseg.io import scan_name, slice_axis
from ichseg.io.geometry import axis_along
from ichseg.processes import place_and_count
from ichseg.progress import progress as with_progress

NEIGHBOR_MM = 5.0  # a neighbor is this far away, however thin the slices are
EMPTY_MASKS = ("unknown", "background")


def slice_labels_in_order(labels: Sequence[float], stored_affine: np.ndarray, shown_affine: np.ndarray) -> np.ndarray:
    """Slice labels in the order of a re-oriented volume.

    Datalists give labels in the order the file stores its slices; a transform such as ``Orientationd`` may
    turn that order round.

    Args:
        labels: (n,) labels in stored order.
        stored_affine: (4, 4) affine of the file.
        shown_affine: (4, 4) affine after the transforms.
    """
    stored = np.asarray(stored_affine, dtype=float)
    _, turned = axis_along(shown_affine, stored[:3, slice_axis(stored)])
    return np.asarray(labels[::-1] if turned else labels)


def slices_first(volume: torch.Tensor, affine: np.ndarray, stored_affine: np.ndarray) -> torch.Tensor:
    """(C, X, Y, Z) with an affine -> (slices, C, H, W), in its own order; slices run as those of the file do."""
    stored = np.asarray(stored_affine, dtype=float)
    return volume.movedim(1 + axis_along(affine, stored[:3, slice_axis(stored)])[0], 0)


def neighbors(count: int, step_mm: float, distance_mm: float = NEIGHBOR_MM) -> tuple[np.ndarray, np.ndarray]:
    """(count,) indices of the slice before and (count,) of the one after every slice of a scan.

    Args:
        count: slices of the scan.
        step_mm: between two of them.
        distance_mm: how far away a neighbor is, the next slice at least; where the scan ends, a slice is its own.
    """
    places, reach = np.arange(count), max(1, round(distance_mm / step_mm))
    before, after = places - reach, places + reach
    return np.where(before < 0, places, before), np.where(after >= count, places, after)


def slab_means(values: torch.Tensor, step_mm: float, slab_mm: float, axis: int) -> torch.Tensor:
    """Every slice as the mean of the slab around it, each slice counting by how much of it lies in the slab.

    Args:
        values: slices along ``axis``, each ``step_mm`` thick.
        step_mm: between two slices.
        slab_mm: thickness of the slab; at the ends of a scan, what there is of it.
        axis: of the slices.

    Returns:
        the same shape.
    """
    count, reach = values.shape[axis], int(slab_mm / step_mm) + 1
    total, weights = torch.zeros_like(values), torch.zeros(count).to(values)
    for away in range(-min(reach, count - 1), min(reach, count - 1) + 1):
        low = max(away * step_mm - step_mm / 2, -slab_mm / 2)
        share = min(away * step_mm + step_mm / 2, slab_mm / 2) - low
        if share > 0:
            here, there, length = max(-away, 0), max(away, 0), count - abs(away)
            total.narrow(axis, here, length).add_(values.narrow(axis, there, length), alpha=share)
            weights[here : here + length] += share
    shape = [1] * values.ndim
    shape[axis] = count
    return total / weights.reshape(shape)


class SliceDataset(Dataset):
    """Every slice of some scans, read once and kept in memory at half precision.

    Args:
        data: data dictionaries of :func:`ichseg.data.load_datalist`, or with an ``image`` and a ``label`` alone.
        transform: volume transform that leaves ``image`` as a (C, X, Y, Z) MetaTensor, and for masks ``label`` as
            (1, X, Y, Z).
        augment: slice transform applied to every item each time it is drawn; it may add a ``mask``.
        target: ``"slice"`` gives ``label`` as the slice label (int 0 or 1); ``"mask"`` as mask (1, H, W), and
            leaves out slices that ``label_slices`` of the datalist says are not annotated, and, unless told otherwise,
            slices labeled positive whose mask is empty.
        progress: show a progress bar while reading.
        keep_unmasked: with ``"mask"``, keep slices labeled positive whose mask is not known or empty: their ``label``
            is -1 everywhere, see :class:`ichseg.training.WeakSegmentationLoss`.
        empty_masks: what the empty masks of slices labeled positive are taken for (decision D29): ``"unknown"``, or
            ``"background"``, which is kept and learned from.

    Items: ``image`` (C, H, W) float32, ``label``, ``case``, ``slice_index`` (in stored order).

    Raises:
        IchsegError: there is no scan; or names the scan that could not be read, or whose labels do not fit its slices.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        target: str = "slice",
        progress: bool = True,
        keep_unmasked: bool = False,
        empty_masks: str = EMPTY_MASKS[0],
    ) -> None:
        if target not in ("slice", "mask"):
            raise IchsegError(f"target must be slice or mask, not '{target}'")
        if empty_masks not in EMPTY_MASKS:
            raise IchsegError(f"empty_masks must be {' or '.join(EMPTY_MASKS)}, not '{empty_masks}'")
        if not data:
            raise IchsegError("no scans to train or validate on")
        self.augment, self.target, self.keep_unmasked, self.empty_masks = augment, target, keep_unmasked, empty_masks
        images, labels, unmasked = [], [], []
        self.index: list[tuple[str, int]] = []
        for scan in with_progress(data, "reading scans") if progress else data:
            image, label, stored, unknown = self._read(scan, transform)
            images.append(image)
            labels.append(label)
            unmasked += unknown
            self.index += [(scan.get("case", scan_name(scan["image"])), i) for i in stored]
        self.images, self.labels, self.unmasked = torch.cat(images), torch.cat(labels), torch.tensor(unmasked)

    def set_random_state(self, seed: int) -> None:
        """Called by MONAI's DataLoader: random numbers of the transforms, others in each process of a training."""
        seed += 1009 * place_and_count()[0]
        for value in vars(self).values():
            seed = set_rnd(value, seed)

    def _read(
        self, scan: dict[str, Any], transform: Callable
    ) -> tuple[torch.Tensor, torch.Tensor, list[int], list[bool]]:
        """Slices (n, C, H, W), their labels, where each slice stands in the file, and which masks are not known."""
        try:
            item = transform(dict(scan))
        except Exception as error:  # any reader or transform error, told with the file it concerns
            raise IchsegError(_naming(scan["image"], one_line(error))) from error
        affine = np.asarray(item["image"].affine)
        before = np.asarray(item["image"].meta.get("original_affine", affine))
        image = slices_first(item["image"].as_tensor(), affine, before).to(torch.float16)
        stored = slice_labels_in_order(range(len(image)), before, affine).tolist()
        if self.target == "mask":
            # Without a mask the annotated slices are the ones known to be empty.
            empty = torch.zeros_like(image, dtype=torch.bool)
            mask = slices_first(item["label"].as_tensor(), affine, before) > 0 if "label" in item else empty
            annotated = set(scan.get("label_slices", stored))
            # A slice labeled positive whose mask is empty has hemorrhage nobody knows where: it teaches nothing but
            # to miss. (Pseudo-masks miss some, and a lesion of a few pixels can vanish in resizing.)
            bleeding, believed = scan.get("slice_labels", [0] * len(image)), self.empty_masks == "background"
            unmasked = [bool(bleeding[i]) and not (i in annotated and (believed or bool(mask[at].any())))
                        for at, i in enumerate(stored)]  # fmt: skip
            kept = [at for at, i in enumerate(stored)
                    if (self.keep_unmasked if unmasked[at] else i in annotated)]  # fmt: skip
            return image[kept], mask[kept], [stored[at] for at in kept], [unmasked[at] for at in kept]
        given = scan.get("slice_labels")
        if given is None or len(given) != len(image):
            count = "no" if given is None else str(len(given))
            raise IchsegError(f"{scan['image']}: {len(image)} slices, but the datalist lists {count} slice_labels")
        return image, torch.tensor([given[i] for i in stored]), stored, [False] * len(stored)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        case, slice_index = self.index[i]
        label = self.labels[i].float() if self.target == "mask" else self.labels[i]
        if self.unmasked[i]:
            label = torch.full_like(label, -1)
        item = {"image": self.images[i].float(), "label": label}
        if self.augment is not None:
            augmented = self.augment(dict(item))
            # MONAI's transforms leave traces of what they did; a training batch needs none of them.
            kept = (*item, "mask") if "mask" in augmented else item
            item = {key: torch.as_tensor(getattr(augmented[key], "array", augmented[key])) for key in kept}
        return {**item, "case": case, "slice_index": slice_index}

    @property
    def positive(self) -> torch.Tensor:
        """(n,) bool: slices with hemorrhage, by mask or label."""
        return self.labels.flatten(1).any(1) | self.unmasked if self.target == "mask" else self.labels > 0


def _naming(path: str, message: str) -> str:
    return message if path in message else f"{path}: {message}"


def balanced_sampler(
    dataset: SliceDataset, positive_share: float = 0.5, samples: int | None = None
) -> WeightedRandomSampler | None:
    """Draw slices so that ``positive_share`` of them carry hemorrhage.

    Args:
        dataset: the slices.
        positive_share: between 0 and 1; 0: no sampler, every slice once an epoch.
        samples: slices per epoch; the size of the data set if None.

    Raises:
        IchsegError: the share is none, or one of the two kinds of slice is absent.
    """
    if not 0 <= positive_share <= 1:
        raise IchsegError(f"positive_share must be between 0 and 1, not {positive_share:g}")
    if not positive_share:
        return None
    positive = dataset.positive
    n, p = len(positive), int(positive.sum())
    if p in (0, n):
        raise IchsegError(
            f"cannot balance: {p} of {n} training slices contain hemorrhage; positive_share 0 draws every slice once"
        )
    weights = torch.where(positive, positive_share / p, (1 - positive_share) / (n - p))
    return WeightedRandomSampler(weights.double().tolist(), samples or n, replacement=True)
