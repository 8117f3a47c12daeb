"""The head, and nothing around it, at one size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils.enums import TraceKeys

from ichseg.data.brain import head_box
from ichseg.transforms.resize import MODES, moved_and_scaled, resize_slices
from ichseg.transforms.volumes import like, plain, volume_slice_axis


class HeadCrop(InvertibleTransform):
    """Cut every slice of a volume to the square around the head and resize it to ``size`` x ``size``.

    Heads of all scans, whatever their field of view, come out about equally large. The affine follows; the inverse
    restores shape and affine, with zeros outside the square.

    Args:
        size: pixels per side.
        mode: ``"bilinear"`` (antialiased) for images and probabilities, ``"nearest"`` for label codes.
        clip: HU outside of this are brought to its ends before anything is averaged, for ``"bilinear"``; None leaves
            them. Bone of 1,500 HU that shares a pixel with brain looks like blood beside it; clipped first, its edge is
            no wider than in scans that come clipped, such as 8-bit pictures.
    """

    def __init__(self, size: int, mode: str = "bilinear", clip: Sequence[float] | None = (-20.0, 100.0)) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not '{mode}'")
        self.size, self.mode, self.clip = size, mode, clip if mode == "bilinear" else None

    def __call__(self, volume: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """(C, X, Y, Z) -> (C, size, size, Z), for slices along the last axis.

        Args:
            volume: what is cut; HU, or a mask.
            image: (1, X, Y, Z) in HU, in which the head is looked for; ``volume`` itself if None.
        """
        axis = volume_slice_axis(volume)
        where = volume if image is None else image
        affine = np.asarray(volume.affine, dtype=float) if isinstance(volume, MetaTensor) else np.eye(4)
        lengths = np.delete(np.linalg.norm(affine[:3, :3], axis=0), axis)
        box = head_box(plain(where)[0].movedim(axis, 0).numpy(), (float(lengths[0]), float(lengths[1])))
        starts, spans = [], []
        for center, length in zip(box[:2], lengths, strict=True):
            spans.append(max(1, round(box[2] / float(length))))
            starts.append(round(center - spans[-1] / 2))
        before = tuple(volume.shape[1:])
        if self.clip is not None:
            volume = like(plain(volume).float().clamp(*self.clip), volume)
        fill = float(plain(volume).min()) if self.mode == "bilinear" else 0.0
        cut = resize_slices(_cut(volume, axis, starts, spans, fill), axis, (self.size, self.size), self.mode)
        if not isinstance(volume, MetaTensor):
            return cut
        cut = cast(MetaTensor, like(plain(cut), volume))
        grown, offsets = list(before), [0.0, 0.0, 0.0]
        for place, other in enumerate(i for i in range(3) if i != axis):
            grown[other], offsets[other] = spans[place], float(starts[place])
        cut.affine = torch.as_tensor(moved_and_scaled(affine, offsets, grown, tuple(cut.shape[1:])))
        info = {"mode": self.mode, "axis": axis, "affine": affine, "starts": starts, "spans": spans}
        self.push_transform(cut, orig_size=before, extra_info=info)
        return cut

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Undo it for (C, size, size, Z); zeros outside the square."""
        record = self.pop_transform(data)
        info = record[TraceKeys.EXTRA_INFO]
        axis, shape = int(info["axis"]), list(record[TraceKeys.ORIG_SIZE])
        starts, spans = [[int(v) for v in info[key]] for key in ("starts", "spans")]
        mode = "nearest" if "nearest" in str(info["mode"]) else "bilinear"
        square = resize_slices(data, axis, spans, mode)
        plane = shape[:axis] + shape[axis + 1 :]
        restored = _cut(square, axis, [-start for start in starts], plane, 0.0)
        restored = cast(MetaTensor, like(plain(restored), data))
        restored.affine = torch.as_tensor(np.asarray(info["affine"]))
        return restored


class HeadCropd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`HeadCrop`: the head is looked for once, in ``image_key``, for all keys."""

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        mode: str | Sequence[str] = "bilinear",
        image_key: str = "image",
        clip: Sequence[float] | None = (-20.0, 100.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        modes = [mode] * len(self.keys) if isinstance(mode, str) else list(mode)
        if len(modes) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys but {len(modes)} modes")
        self.crops = {key: HeadCrop(size, m, clip) for key, m in zip(self.keys, modes, strict=True)}
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image = item[self.image_key]
        for key in self.key_iterator(item):
            item[key] = self.crops[key](item[key], image)
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.crops[key].inverse(item[key])
        return item


def _cut(volume: torch.Tensor, axis: int, starts: Sequence[int], spans: Sequence[int], fill: float) -> torch.Tensor:
    """In-plane window of a volume; ``fill`` where it reaches beyond."""
    slices = plain(volume).movedim(1 + axis, 0)
    pads: list[int] = []
    ranges = []
    for start, span, n in zip(starts, spans, slices.shape[2:], strict=True):
        low, high = max(start, 0), min(start + span, n)
        ranges.append(slice(low, max(low, high)))
        kept = max(0, high - low)
        pads = [min(max(-start, 0), span), 0, *pads]
        pads[1] = span - kept - pads[0]
    cut = torch.nn.functional.pad(slices[:, :, ranges[0], ranges[1]], pads, value=fill)
    return cut.movedim(0, 1 + axis)
