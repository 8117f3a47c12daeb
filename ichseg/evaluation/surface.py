"""How far apart two surfaces are, by MONAI's metrics, with the empty cases told apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage


def surface_agreement(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance_mm: float = 2.0
) -> dict[str, float]:
    """95 % Hausdorff distance and surface Dice of one scan.

    Args:
        prediction, truth: (slices, H, W) masks.
        spacing: mm along the three axes.
        tolerance_mm: surfaces closer than this agree.

    Returns:
        ``hd95_mm``: NaN if either mask is empty, since there is no distance to nothing. ``surface_dice``: 0 if
        only one is empty, NaN if both are.
    """
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    p, t = np.asarray(prediction) > 0, np.asarray(truth) > 0
    if not p.any() or not t.any():
        return {"hd95_mm": float("nan"), "surface_dice": 0.0 if p.any() or t.any() else float("nan")}
    # Nothing outside the box around both masks matters to either metric; a margin keeps edges edges.
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in ndimage.find_objects((p | t).astype(np.int8))[0])
    one, other = (torch.from_numpy(np.pad(m[box], 1))[None, None].float() for m in (p, t))
    step = tuple(float(s) for s in spacing)
    far = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=step)
    near = compute_surface_dice(one, other, class_thresholds=[tolerance_mm], include_background=True, spacing=step)
    return {"hd95_mm": float(far), "surface_dice": float(near)}
