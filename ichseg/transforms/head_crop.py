"""The head, and nothing around it, at one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils.enums import TraceKeys

from ichseg.anatomy import head_box
from ichseg.data.resampling import MODES, moved_and_scaled, place_slices, resize_crops
from ichseg.transforms.base import BACKENDS, InvertibleDictionaryTransform
from ichseg.transforms.resize import inverse_mode
from ichseg.transforms.volumes import is_label, like, plain, remember_slices, volume_slice_axis


class HeadCrop(InvertibleTransform):
    """Cut every slice of a volume to the square around the head and resize it to ``size`` x ``size``.

    Heads of all scans, whatever their field of view, come out about equally large. The affine follows; the inverse
    restores shape and affine, with zeros outside the square.

    Args:
        size: pixels per side.
        mode: ``"bilinear"`` (antialiased) for images and probabilities, ``"nearest"`` for label codes. None: nearest
            for label codes (few different integers from -1 up), but never for the image itself; bilinear for the rest.
        clip: HU outside of this are brought to its ends before anything is averaged, for ``"bilinear"``; None leaves
            them. Bone of 1,500 HU that shares a pixel with brain looks like blood beside it; clipped first, its edge is
            no wider than in scans that come clipped, such as 8-bit pictures.
    """

    backend = BACKENDS

    def __init__(self, size: int, mode: str | None = None, clip: Sequence[float] | None = (-20.0, 100.0)) -> None:
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not '{mode}'")
        self.size, self.mode, self.clip = size, mode, clip

    def __call__(self, volume: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """(C, X, Y, Z) -> (C, size, size, Z), for slices along the last axis.

        Args:
            volume: what is cut; HU, or a mask.
            image: (1, X, Y, Z) in HU, in which the head is looked for; ``volume`` itself if None.

        Raises:
            ValueError: the two are not on one grid.
        """
        axis, before = volume_slice_axis(volume), tuple(volume.shape[1:])
        mode = self.mode or (
            "nearest" if image is not None and image is not volume and is_label(volume) else "bilinear"
        )
        where = volume if image is None else image
        if tuple(where.shape[1:]) != before:
            raise ValueError(f"volume {before} and image {tuple(where.shape[1:])} must be on one grid")
        affine = np.asarray(volume.affine, dtype=float) if isinstance(volume, MetaTensor) else np.eye(4)
        lengths = np.delete(np.linalg.norm(affine[:3, :3], axis=0), axis)
        box = head_box(plain(where)[0].movedim(axis, 0).cpu().numpy(), (float(lengths[0]), float(lengths[1])))
        starts, spans = [], []
        for center, length in zip(box[:2], lengths, strict=True):
            spans.append(max(1, round(box[2] / float(length))))
            starts.append(round(center - spans[-1] / 2))
        clip = self.clip if mode == "bilinear" else None
        values = resize_crops(plain(volume), axis, starts, spans, (self.size, self.size), mode, clip)
        if not isinstance(volume, MetaTensor):
            return values
        cut = cast(MetaTensor, like(values, volume))
        grown, offsets = list(before), [0.0, 0.0, 0.0]
        for place, other in enumerate(i for i in range(3) if i != axis):
            grown[other], offsets[other] = spans[place], float(starts[place])
        cut.affine = torch.as_tensor(moved_and_scaled(affine, offsets, grown, tuple(cut.shape[1:])))
        remember_slices(cut, axis, affine)
        info = {"mode": mode, "axis": axis, "affine": affine, "starts": starts, "spans": spans}
        self.push_transform(cut, orig_size=before, extra_info=info)
        return cut

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Undo it for (C, size, size, Z); zeros outside the square."""
        record = self.pop_transform(data)
        info = record[TraceKeys.EXTRA_INFO]
        axis, shape = int(info["axis"]), list(record[TraceKeys.ORIG_SIZE])
        starts, spans = [[int(v) for v in info[key]] for key in ("starts", "spans")]
        plane = shape[:axis] + shape[axis + 1 :]
        placed = place_slices(plain(data), axis, starts, spans, plane, inverse_mode(info["mode"]))
        restored = cast(MetaTensor, like(placed, data))
        restored.affine = torch.as_tensor(np.asarray(info["affine"]))
        return restored


class HeadCropd(InvertibleDictionaryTransform, array=HeadCrop, companions={"image_key": "image"}, per_key=("mode",),
                order=("size", "mode", "image_key")):  # fmt: skip
    """Dictionary version of :class:`HeadCrop`: the head is looked for once, in ``image_key``, for all keys."""
