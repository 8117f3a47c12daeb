"""Fully connected conditional random field with Gaussian edge potentials, by mean field.

Krähenbühl and Koltun, NIPS 2011. In plain torch: nothing to compile, CPU and CUDA, batches, 2-D and 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ichseg.crf.filters import ExactBilateralFilter, GridBilateralFilter, SpatialFilter

BACKENDS = ("grid", "exact", "pydensecrf")
# Probabilities are kept this far from 0 before the logarithm.
SMALLEST_PROBABILITY = 1e-8


class DenseCRF:
    """Mean field: ``Q <- softmax(log p + sum_m w_m N_m^-1/2 K_m N_m^-1/2 Q)``.

    Two kernels, one of position, one of position and gray level; Potts compatibility; symmetric normalization
    ``N = diag(K 1)``; the self term is kept. The defaults are the published settings, which were made for color
    images: a gray image counts as three equal channels, so the standard deviation of its one channel is
    ``intensity_sigma / sqrt(3)``.

    Args:
        iterations: mean-field steps.
        spatial_sigma: of the position kernel, in pixels, or in mm if ``spacing`` is given.
        spatial_weight: weight of the position kernel; 0 leaves it out.
        bilateral_sigma: position part of the second kernel, in pixels or mm.
        intensity_sigma: gray-level part of the second kernel, per channel of three equal ones.
        bilateral_weight: weight of the second kernel; 0 leaves it out.
        backend: ``"grid"`` (fast), ``"exact"`` (the full sum, for crops) or ``"pydensecrf"`` (needs the extra).
        spacing: edge lengths in mm per spatial axis; then the spatial sigmas are in mm.

    Raises:
        ValueError: unknown backend, or a sigma that is not positive.
    """

    def __init__(
        self,
        iterations: int = 10,
        spatial_sigma: float = 3,
        spatial_weight: float = 3,
        bilateral_sigma: float = 80,
        intensity_sigma: float = 13,
        bilateral_weight: float = 10,
        backend: str = "grid",
        spacing: Sequence[float] | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not '{backend}'")
        if min(spatial_sigma, bilateral_sigma, intensity_sigma) <= 0:
            raise ValueError("the sigmas must be positive")
        self.iterations = iterations
        self.spatial_sigma, self.spatial_weight = spatial_sigma, spatial_weight
        self.bilateral_sigma, self.bilateral_weight = bilateral_sigma, bilateral_weight
        self.intensity_sigma = intensity_sigma
        self.backend, self.spacing = backend, spacing

    def __call__(self, probabilities: Tensor, image: Tensor) -> Tensor:
        """Refine probabilities against an image.

        Args:
            probabilities: (B, C, H, W) or (B, C, D, H, W) in [0, 1], C >= 2 labels.
            image: (B, 1, ...) gray levels 0 to 255 of the same spatial shape.

        Returns:
            probabilities of the same shape, summing to 1 over C.

        Raises:
            ValueError: shapes do not fit.
        """
        p, gray = _checked(probabilities, image)
        sigmas = [1.0 / s for s in self.spacing] if self.spacing is not None else [1.0] * (p.ndim - 2)
        if len(sigmas) != p.ndim - 2:
            raise ValueError(f"spacing has {len(sigmas)} entries, the image {p.ndim - 2} spatial axes")
        unary = p.clamp(SMALLEST_PROBABILITY, 1.0).log()
        if self.backend == "pydensecrf":
            return self._pydensecrf(p, unary, gray, sigmas)
        kernels = self._kernels(gray, sigmas)
        q = unary.softmax(dim=1)
        if not kernels:
            return q
        # The labels sum to 1, so the last label's message is that of all ones less the others': filter C - 1.
        ones = torch.ones_like(gray)
        total = _combined(kernels, ones)
        for _ in range(self.iterations):
            some = _combined(kernels, q[:, :-1])
            last = total - some.sum(dim=1, keepdim=True)
            q = (unary + torch.cat([some, last], dim=1)).softmax(dim=1)
        return q

    def _kernels(self, gray: Tensor, scale: Sequence[float]) -> list[tuple[float, Callable[[Tensor], Tensor]]]:
        kernels = []
        if self.spatial_weight:
            spatial = SpatialFilter(gray.shape[2:], [self.spatial_sigma * s for s in scale], gray.device, gray.dtype)
            kernels.append((self.spatial_weight, _normalized(spatial, torch.ones_like(gray[:1]))))
        if self.bilateral_weight:
            family = GridBilateralFilter if self.backend == "grid" else ExactBilateralFilter
            bilateral = family(gray, [self.bilateral_sigma * s for s in scale], self.intensity_sigma / math.sqrt(3))
            kernels.append((self.bilateral_weight, _normalized(bilateral, torch.ones_like(gray))))
        return kernels

    def _pydensecrf(self, p: Tensor, unary: Tensor, gray: Tensor, scale: Sequence[float]) -> Tensor:
        try:
            import pydensecrf.densecrf as dcrf
            from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian
        except ImportError:
            raise ValueError("backend 'pydensecrf' needs 'pip install ichseg[crf]'; 'grid' needs nothing") from None
        shape = tuple(p.shape[2:])
        results = []
        for terms, picture in zip(unary, gray, strict=True):
            crf = dcrf.DenseCRF(math.prod(shape), p.shape[1])
            crf.setUnaryEnergy(np.ascontiguousarray((-terms).detach().cpu().flatten(1).numpy(), dtype=np.float32))
            if self.spatial_weight:
                sdims = [self.spatial_sigma * s for s in scale]
                crf.addPairwiseEnergy(create_pairwise_gaussian(sdims, shape), compat=self.spatial_weight)
            if self.bilateral_weight:
                sdims = [self.bilateral_sigma * s for s in scale]
                levels = picture[0].detach().cpu().numpy().astype(np.float32)[..., None]
                schan = (self.intensity_sigma / math.sqrt(3),)
                features = create_pairwise_bilateral(sdims, schan, levels, chdim=levels.ndim - 1)
                crf.addPairwiseEnergy(features, compat=self.bilateral_weight)
            q = np.asarray(crf.inference(self.iterations)).reshape(p.shape[1], *shape)
            results.append(torch.from_numpy(q))
        return torch.stack(results).to(p)


def score_probabilities(score: Tensor, power: float = 4.0) -> Tensor:
    """Probabilities from a map's score s: hemorrhage s against background ``(1 - s) ** power``, scaled to sum to 1.

    Args:
        score: (B, 1, ...) in [0, 1].
        power: the higher, the less likely background.

    Returns:
        (B, 2, ...), background first.
    """
    s = score.clamp(0, 1)
    both = torch.cat([(1 - s) ** power, s], dim=1)
    return both / both.sum(dim=1, keepdim=True)


def _combined(kernels: list[tuple[float, Callable[[Tensor], Tensor]]], values: Tensor) -> Tensor:
    """Weighted sum of the kernels' filterings."""
    return torch.stack([weight * kernel(values) for weight, kernel in kernels]).sum(dim=0)


def _normalized(kernel: Callable[[Tensor], Tensor], ones: Tensor) -> Callable[[Tensor], Tensor]:
    """``N^-1/2 K N^-1/2`` with ``N = diag(K 1)``."""
    root = kernel(ones).clamp_min(torch.finfo(ones.dtype).tiny).rsqrt()
    return lambda values: root * kernel(root * values)


def _checked(probabilities: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    if probabilities.ndim not in (4, 5) or probabilities.shape[1] < 2:
        raise ValueError(
            f"probabilities must be (B, C, H, W) or (B, C, D, H, W) with C >= 2, not {tuple(probabilities.shape)}"
        )
    expected = (probabilities.shape[0], 1, *probabilities.shape[2:])
    if tuple(image.shape) != expected:
        raise ValueError(f"image must have shape {expected} to fit the probabilities, not {tuple(image.shape)}")
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    return probabilities.to(dtype), image.to(device=probabilities.device, dtype=dtype)
