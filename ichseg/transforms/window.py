"""The brain window as a transform, and the window an image comes with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRange, Transform

from ichseg.defaults import ROUNDING
from ichseg.transforms.base import BACKENDS, DictionaryTransform
from ichseg.transforms.volumes import like, plain, tensor_of

LOWEST_TOP, CLIP_TOLERANCE, LEAST_BONE = 60.0, 1.0, 0.02  # HU, HU, and share of all voxels at the upper end
OVERSHOOT = 2.0  # a picture of 255 gray levels is not as dark, if it has fractions of them


class BrainWindow(ScaleIntensityRange):
    """MONAI's ``ScaleIntensityRange`` with clipping, by the level and width of a CT window; [0, 1] comes out.

    The same gray value means the same tissue in every slice: the window scales, never the image's own range.

    Args:
        level: center of the window in HU. The paper uses 50.
        width: width of the window in HU. The paper uses 130, which is -15 to 115 HU.
    """

    def __init__(self, level: float = 50.0, width: float = 130.0) -> None:
        if width <= 0:
            raise ValueError(f"the window width must be positive, not {width}")
        super().__init__(level - width / 2, level + width / 2, 0.0, 1.0, clip=True)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Any shape in HU -> same shape, float32 in [0, 1]; a plain tensor stays plain."""
        return like(
            plain(torch.as_tensor(super().__call__(plain(image) if isinstance(image, np.ndarray) else image))), image
        )


class BrainWindowd(DictionaryTransform, array=BrainWindow):
    """Dictionary version of :class:`BrainWindow`."""


class CTWindows(Transform):
    """(1, X, Y, Z) in HU -> (N, X, Y, Z): the same image in N windows, each clipped and scaled to [0, 1].

    Args:
        windows: level and width in HU of each.

    Raises:
        ValueError: no window, or, when called, more than one channel.
    """

    backend = BACKENDS

    def __init__(self, windows: Sequence[Sequence[float]]) -> None:
        if not windows:
            raise ValueError("at least one window is needed")
        self.windows = [BrainWindow(*window) for window in windows]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        values = plain(image)
        if len(values) != 1:
            raise ValueError(f"expected one channel of Hounsfield units, not shape {tuple(values.shape)}")
        return like(torch.cat([window(values) for window in self.windows]), image)


class CTWindowsd(DictionaryTransform, array=CTWindows):
    """Dictionary version of :class:`CTWindows`."""


def gray_range(image: torch.Tensor) -> tuple[float, float]:
    """The values of an image that black and white stand for.

    (0, 1) for an image within [0, 1]; (0, 255) for one within [0, 255] whose metadata contain no window; otherwise the
    window in the metadata: ``cal_min`` and ``cal_max`` of NIfTI, or the first window center and width of DICOM as
    MONAI's readers keep them. A window that the values do not fill belongs to the image before it was scaled, and is
    not used.

    Args:
        image: any shape; a MetaTensor, unless its values are inside [0, 255].

    Raises:
        ValueError: none of these fits the values.
    """
    lowest, highest = float(plain(image).min()), float(plain(image).max())
    inside = lowest >= -ROUNDING and highest <= 255 + ROUNDING
    if inside and highest <= 1 + ROUNDING:
        return 0.0, 1.0
    if inside and highest <= OVERSHOOT and bool((plain(image) != plain(image).round()).any()):
        raise ValueError(
            f"the image's values ({lowest:g} to {highest:g}) go beyond [0, 1]; clip them, or set the values of black "
            "and white with image_range"
        )
    window = _named_window(image.meta) if isinstance(image, MetaTensor) else None
    if inside and window in (None, (0.0, 255.0)):
        return 0.0, 255.0
    # An 8-bit picture and Hounsfield units without air look alike: with a window named, only values below 0 tell.
    if window is not None and not inside and highest - lowest >= window[1] - window[0]:
        return window
    named = (
        "no window" if window is None else f"a window ({window[0]:g} to {window[1]:g}) that may not apply to its values"
    )
    raise ValueError(
        f"the image's values ({lowest:g} to {highest:g}) are not in [0, 1], and its metadata gives {named}; scale it "
        "with BrainWindowd, or set the values of black and white with image_range"
    )


def _named_window(meta: Mapping[Any, Any]) -> tuple[float, float] | None:
    low, high = _number(meta.get("cal_min")), _number(meta.get("cal_max"))
    if low is not None and high is not None and low < high:
        return low, high
    for center_tag, width_tag in (("00281050", "00281051"), ("0028|1050", "0028|1051")):
        center, width = _number(meta.get(center_tag)), _number(meta.get(width_tag))
        if center is not None and width is not None and width > 0:
            return center - width / 2, center + width / 2
    return None


def _number(value: Any) -> float | None:
    """The first number in what a reader keeps under a name; None if there is none."""
    if isinstance(value, Mapping):  # DICOM's JSON: {"vr": "DS", "Value": [40, 80]}
        value = value.get("Value")
    if isinstance(value, str):
        value = value.split("\\")[0]
    if isinstance(value, np.ndarray | torch.Tensor):
        value = value.ravel().tolist()
    if isinstance(value, list | tuple) and value:
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


class RestoreBone(Transform):
    """Undo the clipping of bone by a narrow window: voxels at the upper end are mostly bone, and are set to ``top``.

    Pictures and some exports are clipped at 70 to 95 HU, where bone looks like dense blood. A volume that reaches
    ``top``, or has too few voxels at its largest value for a skull, stays as it is.

    Args:
        top: HU that bone gets; the upper end of the network's window.
        enabled: False leaves every volume as it is.
    """

    backend = BACKENDS

    def __init__(self, top: float = 100.0, enabled: bool = True) -> None:
        self.top, self.enabled = top, enabled

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Any shape in HU -> the same."""
        values = plain(image)
        if not self.enabled or not values.numel():
            return tensor_of(image)
        highest = float(values.max())
        if not LOWEST_TOP <= highest < self.top:
            return tensor_of(image)
        clipped = values >= highest - CLIP_TOLERANCE
        if float(clipped.float().mean()) < LEAST_BONE:
            return tensor_of(image)
        return like(torch.where(clipped, torch.as_tensor(self.top, dtype=values.dtype), values), image)


class RestoreBoned(DictionaryTransform, array=RestoreBone):
    """Dictionary version of :class:`RestoreBone`."""
