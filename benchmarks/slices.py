"""Head CT slices to measure on: a phantom, or a scan of yours."""

from __future__ import annotations

import numpy as np
import torch

from ichseg.io import read_volume, slice_axis
from ichseg.synthetic.phantom import phantom_scan

LEVEL, WIDTH = 50.0, 130.0  # the window of the bundles, in HU


def head_slices(image: str | None, size: int, count: int) -> torch.Tensor:
    """(count, 1, size, size) gray levels, whole numbers from 0 to 255 over the window of the bundles.

    A scan with fewer slices is run through again from its first.
    """
    if image is None:
        scan = phantom_scan(0, ("IPH", "SDH"), size, count)
        hounsfield = np.moveaxis(scan.image, 2, 0)
    else:
        volume = read_volume(image)
        hounsfield = np.moveaxis(volume.array, slice_axis(volume.affine), 0)
    stack = torch.from_numpy(np.ascontiguousarray(hounsfield, dtype=np.float32))[:, None]
    if stack.shape[-2:] != (size, size):
        stack = torch.nn.functional.interpolate(stack, (size, size), mode="bilinear", antialias=True)
    stack = stack[torch.arange(count) % len(stack)]
    return ((stack - (LEVEL - WIDTH / 2)) / WIDTH).clamp(0, 1).mul(255).round()
