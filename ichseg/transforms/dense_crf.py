"""The dense CRF as a transform, to be put after any network or pseudo-mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from ichseg.crf import DenseCRF, score_probabilities
from ichseg.defaults import ROUNDING
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, volume_slice_axis
from ichseg.transforms.window import gray_range

UNARIES = ("label", "score")
OVERLAP = 0.05  # how far above 1 probabilities may add up: rounding, and precisions lower than float32


class RefineWithCRF(Transform):
    """Sharpen a mask or probabilities against the image, with :class:`ichseg.crf.DenseCRF`.

    Volumes are refined slice by slice, along the slice axis of the affine, or as a whole; 2-D images as they are.

    Args:
        image_range: image values that become gray levels 0 and 255, e.g. ``(-15, 115)`` for HU. None: found by
            :func:`ichseg.transforms.gray_range`: [0, 1] or [0, 255] for an image within that range, and for any other
            the window in its metadata.
        label_probability: how sure a binary mask is taken to be, between 0.5 and 1 (decision D15: the paper binarizes
            before the CRF).
        argmax: True gives labels back, False the probabilities.
        batch_size: slices per call; on a CPU they are shared out over the threads.
        unary: ``"label"``: from the mask; ``"score"``: from the score s behind the mask, hemorrhage s against
            background ``(1 - s) ** score_power``.
        score_power: the higher, the less likely background; 4 is usual.
        dimensions: 2: slice by slice; 3: the volume as a whole, with the spacing of the affine, so that thick slices
            keep their true distance.
        in_mm: True: the spatial sigmas are in mm by the affine (of a single image, by its first two axes); False: in
            pixels, for a volume as a whole in pixels of its slices.
        **crf: as in :class:`ichseg.crf.DenseCRF`.

    Raises:
        TypeError: an unknown name among ``crf``.
        ValueError: a value that is not possible; when called: ``in_mm`` or a whole volume without an affine, or an
            image whose gray levels nothing explains.
    """

    backend = BACKENDS

    def __init__(
        self,
        image_range: tuple[float, float] | None = None,
        label_probability: float = 0.7,
        argmax: bool = True,
        batch_size: int = 16,
        unary: str = "label",
        score_power: float = 4.0,
        dimensions: int = 2,
        in_mm: bool = False,
        **crf: Any,
    ) -> None:
        if unary not in UNARIES:
            raise ValueError(f"unary must be one of {', '.join(UNARIES)}, not '{unary}'")
        if dimensions not in (2, 3):
            raise ValueError(f"dimensions must be 2 or 3, not {dimensions}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        if not 0.5 < label_probability < 1:
            raise ValueError(f"label_probability must lie between 0.5 and 1, not {label_probability}")
        if image_range is not None and not image_range[0] < image_range[1]:
            raise ValueError(f"image_range must be (low, high), not {tuple(image_range)}")
        self.image_range = None if image_range is None else tuple(image_range)
        self.unary, self.score_power = unary, score_power
        self.label_probability, self.argmax, self.batch_size = label_probability, argmax, batch_size
        self.dimensions, self.in_mm = dimensions, in_mm
        self.crf = DenseCRF(**crf)

    def __call__(  # type: ignore[override]
        self, mask: torch.Tensor, image: torch.Tensor, score: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sharpen one scan.

        Slices whose mask is empty stay empty (with ``dimensions=3``, volumes): the field must not invent foreground.
        With ``iterations=0`` and ``argmax``, a one-channel mask or probability map is returned unchanged.

        Args:
            mask: (1, X, Y, Z) or (1, X, Y) of 0 and 1, or probabilities (C, ...), C = 1 of foreground. Of several, the
                first is background, and gets what the others leave, as outside of a crop.
            image: the scan, (1, X, Y, Z) or (1, X, Y).
            score: (1, ...) in [0, 1] behind the mask; needed for ``unary="score"``.

        Returns:
            labels (1, ...), or probabilities (C, ...) with C >= 2, with the mask's metadata.
        """
        mask, image = (one if isinstance(one, torch.Tensor) else plain(np.asarray(one)) for one in (mask, image))
        if image.ndim not in (3, 4) or mask.shape[1:] != image.shape[1:] or len(image) != 1:
            raise ValueError(f"mask {tuple(mask.shape)} and image {tuple(image.shape)} must be (C, ...) and (1, ...)")
        if self.unary == "score" and (score is None or len(mask) != 1):
            raise ValueError("unary 'score' needs a one-channel mask and the score map it was thresholded from")
        if self.unary == "score" and score is not None and score.shape != mask.shape:
            raise ValueError(f"score {tuple(score.shape)} must have the shape of the mask, {tuple(mask.shape)}")
        if mask.numel() == 0 or (self.crf.iterations == 0 and self.argmax and len(mask) == 1):
            return mask
        if not bool((mask >= -ROUNDING).all() and (mask <= 1 + ROUNDING).all()):
            raise ValueError(
                f"expected probabilities or a mask of 0 and 1, not values from {float(mask.min()):g} to "
                f"{float(mask.max()):g}; apply Activationsd to logits or AsDiscreted to label maps first"
            )
        if len(mask) > 1 and float(plain(mask).sum(dim=0).amax()) > 1 + OVERLAP:
            raise ValueError(
                f"the {len(mask)} channels sum to up to {float(plain(mask).sum(dim=0).amax()):g}, but must sum to 1 "
                "(softmax); for overlapping classes (sigmoid), refine one channel at a time"
            )
        whole = self.dimensions == 3 and image.ndim == 4
        axis = volume_slice_axis(image) if image.ndim == 4 else None

        def items(values: torch.Tensor) -> torch.Tensor:
            return _items(plain(values).float(), axis, whole).contiguous()

        p = items(mask)
        if p.shape[1] > 1:
            missing = 1 - p.sum(dim=1, keepdim=True)
            if bool((missing > OVERLAP).any()):
                p = torch.cat([p[:, :1] + missing.where(missing > OVERLAP, 0.0), p[:, 1:]], dim=1)
        low, high = self.image_range or gray_range(image)
        gray = ((items(image) - low) / (high - low) * 255).clamp(0, 255).round()
        touched = torch.ones(len(p), dtype=torch.bool)
        if p.shape[1] == 1:
            if bool(((p == 0) | (p == 1)).all()):
                touched = p.flatten(1).any(1).cpu()
                if self.unary == "label":
                    p = torch.where(p > 0, self.label_probability, 1 - self.label_probability)
            if self.unary == "score" and score is not None:
                p = score_probabilities(items(score), self.score_power)
            else:
                p = torch.cat([1 - p, p], dim=1)
        elif bool(((p == 0) | (p == 1)).all()):  # one channel per label: as sure as a mask is taken to be
            p = torch.where(p > 0, self.label_probability, (1 - self.label_probability) / (p.shape[1] - 1))
        result = torch.zeros_like(p[:, :1] if self.argmax else p)
        if not self.argmax:
            result[:, 0] = 1
        spacing = self._spacing(image, axis, whole)
        for batch in touched.nonzero().flatten().split(self.batch_size):
            if len(batch):
                q = self.crf.refine(p[batch], gray[batch], spacing)
                result[batch] = _labels(q) if self.argmax else q
        return like(_joined(result, axis, whole), mask if isinstance(mask, MetaTensor) else image)

    def _spacing(self, image: torch.Tensor, axis: int | None, whole: bool) -> list[float] | None:
        """Spacing of the axes that the field sees, slices first; None: pixels."""
        if not (self.in_mm or whole):
            return None
        if not isinstance(image, MetaTensor):
            raise ValueError("in_mm and dimensions=3 need an image with an affine (a MetaTensor)")
        directions = np.asarray(image.affine, dtype=float)[:-1, :-1]
        lengths = [float(length) for length in np.linalg.norm(directions, axis=0)]
        if axis is None:
            return lengths[: image.ndim - 1]
        plane = [length for number, length in enumerate(lengths) if number != axis]
        if not whole:
            return plane
        unit = 1.0 if self.in_mm else float(np.sqrt(plane[0] * plane[1]))
        return [length / unit for length in (lengths[axis], *plane)]


def _items(values: torch.Tensor, axis: int | None, whole: bool) -> torch.Tensor:
    """(C, ...) -> what the field sees: slices (n, C, H, W), the volume (1, C, D, H, W), or the image (1, C, H, W)."""
    if axis is None:
        return values[None]
    return values.movedim(1 + axis, 1)[None] if whole else values.movedim(1 + axis, 0)


def _labels(q: torch.Tensor) -> torch.Tensor:
    """(n, C, ...) -> (n, 1, ...) float."""
    # The same as argmax, which takes longer for two labels than the field itself.
    return (q[:, 1:] > q[:, :1] if q.shape[1] == 2 else q.argmax(1, keepdim=True)).float()


def _joined(items: torch.Tensor, axis: int | None, whole: bool) -> torch.Tensor:
    """The way back."""
    if axis is None:
        return items[0]
    return items[0].movedim(1, 1 + axis) if whole else items.movedim(0, 1 + axis)


class DenseCRFd(DictionaryTransform, array=RefineWithCRF, companions={"image_key": "image", "score_key": None}):
    """Dictionary version of :class:`RefineWithCRF`; ``image_key`` holds the scan, ``score_key`` the score, if any."""
