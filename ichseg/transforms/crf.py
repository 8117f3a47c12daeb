"""The dense CRF as a transform, to be put after any network or pseudo-mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from ichseg.crf import DenseCRF as DenseCRFSolver
from ichseg.crf import score_probabilities
from ichseg.transforms.volumes import like, plain, volume_slice_axis

UNARIES = ("label", "score")


class DenseCRF(Transform):
    """Sharpen a mask or probabilities against the scan, slice by slice, with :class:`ichseg.crf.DenseCRF`.

    Args:
        image_range: what 0 and 255 gray levels are in the image; (0, 1) for a windowed scan.
        label_probability: how sure a binary mask is taken to be (decision D15: the paper binarizes before the CRF).
        unary: ``"label"``: from the mask; ``"score"``: from the score s behind the mask, hemorrhage s against
            background ``(1 - s) ** score_power``.
        score_power: the higher, the less likely background; 4 is usual.
        argmax: True gives a binary mask back, False the probabilities.
        batch_size: slices per call.
        **crf: as in :class:`ichseg.crf.DenseCRF`.
    """

    def __init__(
        self,
        image_range: tuple[float, float] = (0.0, 1.0),
        label_probability: float = 0.7,
        argmax: bool = True,
        batch_size: int = 1,
        unary: str = "label",
        score_power: float = 4.0,
        **crf: Any,
    ) -> None:
        if unary not in UNARIES:
            raise ValueError(f"unary must be one of {', '.join(UNARIES)}, not '{unary}'")
        self.low, self.high = image_range
        self.unary, self.score_power = unary, score_power
        self.label_probability, self.argmax, self.batch_size = label_probability, argmax, batch_size
        self.crf = DenseCRFSolver(**crf)

    def __call__(  # type: ignore[override]
        self, mask: torch.Tensor, image: torch.Tensor, score: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sharpen one scan.

        Slices whose mask is empty stay empty: the field must not invent foreground. With no iterations, what is
        given is returned as it is.

        Args:
            mask: (1, X, Y, Z) of 0 and 1, or probabilities (C, X, Y, Z), C = 1 of foreground.
            image: the scan (1, X, Y, Z).
            score: (1, X, Y, Z) in [0, 1] behind the mask; needed for ``unary="score"``.
        """
        if self.unary == "score" and (score is None or len(mask) != 1):
            raise ValueError("unary 'score' needs a mask of one channel and the score it was cut from")
        if self.crf.iterations == 0 and self.argmax and len(mask) == 1:
            return mask
        axis = volume_slice_axis(image)
        p = plain(mask).movedim(1 + axis, 0).float()  # (n, C, H, W)
        gray = ((plain(image).movedim(1 + axis, 0).float() - self.low) / (self.high - self.low) * 255).clamp(0, 255)
        touched = torch.ones(len(p), dtype=torch.bool)
        if p.shape[1] == 1:
            if bool(((p == 0) | (p == 1)).all()):
                touched = p.flatten(1).any(1)
                if self.unary == "label":
                    p = torch.where(p > 0, self.label_probability, 1 - self.label_probability)
            if self.unary == "score" and score is not None:
                p = score_probabilities(plain(score).movedim(1 + axis, 0).float(), self.score_power)
            else:
                p = torch.cat([1 - p, p], dim=1)
        refined = torch.zeros_like(p)
        refined[:, 0] = 1
        numbers = touched.nonzero().flatten()
        for batch in numbers.split(self.batch_size) if len(numbers) else ():
            refined[batch] = self.crf(p[batch], gray[batch].round())
        result = refined.argmax(1, keepdim=True).float() if self.argmax else refined
        return like(result.movedim(0, 1 + axis), mask if isinstance(mask, MetaTensor) else image)


class DenseCRFd(MapTransform):
    """Dictionary version of :class:`DenseCRF`; ``image_key`` holds the scan, ``score_key`` the score, if any."""

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        score_key: str | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.score_key = image_key, score_key
        self.crf = DenseCRF(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            score = None if self.score_key is None else item.get(self.score_key)
            item[key] = self.crf(item[key], item[self.image_key], score)
        return item
