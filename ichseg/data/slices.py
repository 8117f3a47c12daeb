"""Volumes as ordered slices for training 2-D networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, WeightedRandomSampler

from ichseg.errors import IchsegError, one_line
from ichseg.io import slice_axis


def slice_labels_in_order(labels: Sequence[int], stored_affine: np.ndarray, shown_affine: np.ndarray) -> np.ndarray:
    """Slice labels in the order of a re-oriented volume.

    Datalists give labels in the order the file stores its slices; a transform such as ``Orientationd`` may
    turn that order round.

    Args:
        labels: (n,) labels in stored order.
        stored_affine: (4, 4) affine of the file.
        shown_affine: (4, 4) affine after the transforms.
    """
    upward = [affine[2, slice_axis(affine)] > 0 for affine in (np.asarray(stored_affine), np.asarray(shown_affine))]
    return np.asarray(labels if upward[0] == upward[1] else labels[::-1])


def slices_first(volume: torch.Tensor, affine: np.ndarray | torch.Tensor) -> torch.Tensor:
    """(C, X, Y, Z) with an affine -> (slices, C, H, W), in stored order."""
    return volume.movedim(1 + slice_axis(np.asarray(affine)), 0)


class SliceDataset(Dataset):
    """Every slice of some scans, read once and kept in memory at half precision.

    Args:
        data: data dictionaries of :func:`ichseg.data.load_datalist`.
        transform: volume transform that leaves ``image`` (and ``label`` for masks) as (1, X, Y, Z) MetaTensor.
        augment: slice transform applied to every item each time it is drawn.
        target: ``"slice"`` gives ``label`` as the slice label (int 0 or 1); ``"mask"`` as mask (1, H, W);
            ``"both"`` gives the mask as ``label`` and the slice label as ``slice_label``.
        progress: show a progress bar while reading.

    Items: ``image`` (1, H, W) float32, ``label``, ``case``, ``slice_index`` (in stored order).

    Raises:
        IchsegError: names the scan that could not be read, or whose labels do not fit its slices.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        target: str = "slice",
        progress: bool = True,
    ) -> None:
        from tqdm import tqdm

        if target not in ("slice", "mask", "both"):
            raise IchsegError(f"target must be slice, mask or both, not '{target}'")
        self.augment, self.target = augment, target
        images: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        labels: list[np.ndarray] = []
        self.index: list[tuple[str, int]] = []
        for scan in tqdm(data, desc="reading scans", unit="scan", disable=not progress):
            try:
                item = transform(dict(scan))
            except Exception as error:  # any reader or transform error, told with the file it concerns
                raise IchsegError(f"{scan['image']}: {one_line(error)}") from error
            affine = np.asarray(item["image"].affine)
            image = slices_first(item["image"].as_tensor(), affine)
            stored = np.asarray(item["image"].meta.get("original_affine", affine))
            images.append(image.to(torch.float16))
            order = range(len(image))
            if "slice_labels" in scan:
                if len(scan["slice_labels"]) != len(image):
                    raise IchsegError(
                        f"{scan['image']}: {len(image)} slices, but the datalist gives "
                        f"{len(scan['slice_labels'])} slice_labels for case {scan['case']}"
                    )
                labels.append(slice_labels_in_order(scan["slice_labels"], stored, affine))
                order = slice_labels_in_order(range(len(image)), stored, affine).tolist()
            elif target != "mask":
                raise IchsegError(f"case {scan['case']}: the datalist has no slice_labels")
            if target != "slice":
                masks.append(slices_first(item["label"].as_tensor(), affine) > 0)
            self.index += [(scan["case"], int(i)) for i in order]
        self.images = torch.cat(images)
        self.masks = torch.cat(masks) if masks else None
        self.labels = torch.from_numpy(np.concatenate(labels)).long() if labels else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        case, slice_index = self.index[i]
        item: dict[str, Any] = {"image": self.images[i].float(), "case": case, "slice_index": slice_index}
        if self.masks is not None:
            item["label"] = self.masks[i].float()
        if self.labels is not None:
            item["label" if self.target == "slice" else "slice_label"] = self.labels[i]
        if self.augment is None:
            return item
        keys = ("image", "label") if self.masks is not None else ("image",)
        augmented = self.augment({key: item[key] for key in keys})
        # MONAI's transforms leave traces of what they did; a training batch needs none of them.
        return {**item, **{key: torch.as_tensor(getattr(augmented[key], "array", augmented[key])) for key in keys}}

    @property
    def positive(self) -> torch.Tensor:
        """(n,) bool: slices with hemorrhage by their mask if masks were asked for, else by their label."""
        if self.masks is not None:
            return self.masks.flatten(1).any(1)
        if self.labels is None:
            raise IchsegError("the data set has neither masks nor slice labels")
        return self.labels > 0


def balanced_sampler(
    dataset: SliceDataset, positive_share: float = 0.5, samples: int | None = None, seed: int = 0
) -> WeightedRandomSampler:
    """Draw slices so that ``positive_share`` of them carry hemorrhage.

    Args:
        dataset: the slices.
        positive_share: between 0 and 1.
        samples: slices per epoch; the size of the data set if None.
        seed: of the draws.

    Raises:
        IchsegError: one of the two kinds of slice is absent.
    """
    positive = dataset.positive
    n, p = len(positive), int(positive.sum())
    if p in (0, n):
        raise IchsegError(f"cannot balance: {p} of {n} training slices carry hemorrhage")
    weights = torch.where(positive, positive_share / p, (1 - positive_share) / (n - p))
    generator = torch.Generator().manual_seed(seed)
    return WeightedRandomSampler(weights.double().tolist(), samples or n, replacement=True, generator=generator)
