"""The same field solved by pydensecrf (Philipp Krähenbühl's code), as a second opinion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def lattice_mean_field(
    unary: Tensor,
    gray: Tensor,
    iterations: int,
    spatial_sigmas: Sequence[float] | None,
    spatial_weight: float,
    bilateral_sigmas: Sequence[float] | None,
    intensity_sigma: float,
    bilateral_weight: float,
) -> Tensor:
    """Mean field on a permutohedral lattice, on the CPU, one image after the other.

    Args:
        unary: (B, C, *S) log-probabilities.
        gray: (B, 1, *S).
        iterations: mean-field steps.
        spatial_sigmas, bilateral_sigmas: per axis, in pixels; None leaves the kernel out.
        intensity_sigma: of the one channel.
        spatial_weight, bilateral_weight: of the kernels.

    Raises:
        ValueError: pydensecrf is not installed.
    """
    try:
        import pydensecrf.densecrf as dcrf
        from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian
    except ImportError:
        raise ValueError("backend 'pydensecrf' needs 'pip install ichseg[crf]'; 'grid' does not") from None
    labels, shape = unary.shape[1], tuple(unary.shape[2:])
    results = []
    for terms, picture in zip(unary, gray, strict=True):
        crf = dcrf.DenseCRF(math.prod(shape), labels)
        crf.setUnaryEnergy(np.ascontiguousarray((-terms).detach().cpu().flatten(1).numpy(), dtype=np.float32))
        if spatial_sigmas is not None:
            crf.addPairwiseEnergy(create_pairwise_gaussian(spatial_sigmas, shape), compat=spatial_weight)
        if bilateral_sigmas is not None:
            levels = picture[0].detach().cpu().numpy().astype(np.float32)[..., None]
            features = create_pairwise_bilateral(bilateral_sigmas, (intensity_sigma,), levels, chdim=levels.ndim - 1)
            crf.addPairwiseEnergy(features, compat=bilateral_weight)
        results.append(torch.from_numpy(np.asarray(crf.inference(iterations)).reshape(labels, *shape)))
    return torch.stack(results).to(unary)
