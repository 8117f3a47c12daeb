"""Fully connected conditional random field with Gaussian edge potentials, by mean field.

Krähenbühl and Koltun, NIPS 2011. In plain torch: nothing to compile, CPU and CUDA, batches, 2-D and 3-D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ichseg.crf.filters import ExactBilateralFilter, SpatialFilter
from ichseg.crf.grid import GridBilateralFilter, PixelGrid
from ichseg.crf.lattice import lattice_mean_field
from ichseg.defaults import ROUNDING
from ichseg.parallel import map_images

BACKENDS = ("grid", "exact", "pydensecrf")
# Probabilities are kept this far from 0 before the logarithm.
SMALLEST_PROBABILITY = 1e-8
Filter = Callable[[Tensor], Tensor]


class DenseCRF(nn.Module):
    """Mean field: ``Q <- softmax(log p + sum_m w_m N_m^-1/2 K_m N_m^-1/2 Q)``.

    Two kernels, one of position, one of position and gray level; Potts compatibility; symmetric normalization
    ``N = diag(K 1)``; the self term is kept. The defaults are the published settings, which were made for color
    images: a gray image counts as three equal channels, so the standard deviation of its one channel is
    ``intensity_sigma / sqrt(3)``.

    A module without parameters of its own, so it can be the last layer of a network: gradients flow to the
    probabilities, and to the weights where these are tensors (a :class:`torch.nn.Parameter` is trained with the
    network), not to the image. Results are the same bits on every run with the same number of threads.

    Args:
        iterations: mean-field steps.
        spatial_sigma: of the position kernel, in pixels, or in mm if ``spacing`` is given.
        spatial_weight: weight of the position kernel; 0 leaves it out.
        bilateral_sigma: position part of the second kernel, in pixels or mm.
        intensity_sigma: gray-level part of the second kernel, per channel of three equal ones.
        bilateral_weight: weight of the second kernel; 0 leaves it out.
        backend: ``"grid"`` (fast), ``"exact"`` (the full sum, for crops) or ``"pydensecrf"`` (needs the extra).
        spacing: edge lengths in mm per spatial axis, in the order of the axes; then the spatial sigmas are in mm.

    Raises:
        ValueError: unknown backend, a sigma or spacing that is not positive, a weight that is not finite, or fewer
            than 0 iterations.
    """

    def __init__(
        self,
        iterations: int = 10,
        spatial_sigma: float = 3,
        spatial_weight: float | Tensor = 3,
        bilateral_sigma: float = 80,
        intensity_sigma: float = 13,
        bilateral_weight: float | Tensor = 10,
        backend: str = "grid",
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not '{backend}'")
        if not all(0 < sigma < math.inf for sigma in (spatial_sigma, bilateral_sigma, intensity_sigma)):
            raise ValueError("the sigmas must be positive, finite numbers")
        if not all(isinstance(w, Tensor) or math.isfinite(w) for w in (spatial_weight, bilateral_weight)):
            raise ValueError("the weights must be finite numbers")
        if iterations < 0:
            raise ValueError(f"iterations must be at least 0, not {iterations}")
        self.iterations = iterations
        self.spatial_sigma, self.spatial_weight = spatial_sigma, spatial_weight
        self.bilateral_sigma, self.bilateral_weight = bilateral_sigma, bilateral_weight
        self.intensity_sigma = intensity_sigma
        self._made: tuple[Any, Callable[[Tensor], list[Filter]]] | None = None
        self.backend, self.spacing = backend, None if spacing is None else checked_spacing(spacing)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return (
            f"iterations={self.iterations}, spatial={self.spatial_sigma}, bilateral={self.bilateral_sigma}, "
            f"intensity={self.intensity_sigma}, backend={self.backend}"
        )

    def forward(self, probabilities: Tensor, image: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """Refine probabilities against an image.

        Args:
            probabilities: (B, C, H, W) or (B, C, D, H, W) in [0, 1], C >= 2 labels.
            image: (B, 1, ...) gray levels 0 to 255 of the same spatial shape.
            spacing: of this image, instead of the one given to the constructor.

        Returns:
            probabilities of the same shape, summing to 1 over C: a plain tensor of float32 (float64 for float64).

        Raises:
            ValueError: shapes do not fit, something is not a finite number, or values are those of logits, or of an
                image in [0, 1] or [-1, 1], or a standardized one.
            RuntimeError: called while ``torch.jit.trace`` records.
        """
        return self._refined(*_checked(probabilities, image), spacing, strict=True)

    def refine(self, probabilities: Tensor, image: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
        """:meth:`forward` for gray levels that are known to be in 0 to 255, however dark the image is."""
        return self._refined(*_checked(probabilities, image), spacing, strict=False)

    def _refined(self, p: Tensor, gray: Tensor, spacing: Sequence[float] | None, strict: bool) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError(
                "DenseCRF depends on the gray levels of each image and cannot be traced; trace the network "
                "alone and call DenseCRF on its output"
            )
        spacing = self.spacing if spacing is None else checked_spacing(spacing)
        scale = [1.0] * (p.ndim - 2) if spacing is None else [1.0 / s for s in spacing]
        if len(scale) != p.ndim - 2:
            raise ValueError(f"spacing has {len(scale)} entries, but the image has {p.ndim - 2} spatial axes")
        if self.backend == "pydensecrf" and p.requires_grad and torch.is_grad_enabled():
            raise ValueError("backend 'pydensecrf' has no gradient; use 'grid' or 'exact'")
        if p.numel() == 0:
            return p
        if strict:
            _check_ranges(p, gray, self.intensity_sigma)
        with torch.autocast(p.device.type, enabled=False):
            if self.backend == "pydensecrf":
                return self._lattice(_log(p), gray, scale)
            kernels = self._maker(gray, scale)
            if p.device.type != "cpu" or len(p) == 1:
                return self._mean_field(p, kernels(gray))
            weights = (self.spatial_weight, self.bilateral_weight)
            tracked = any(isinstance(one, Tensor) and one.requires_grad for one in (p, *weights))
            whole = None if tracked and torch.is_grad_enabled() else torch.empty_like(p)

            def one(number: int) -> Tensor:
                here = slice(number, number + 1)
                q = self._mean_field(p[here], kernels(gray[here]))
                return q if whole is None else whole[here].copy_(q)

            images = map_images(one, range(len(p)))
            return torch.cat(images) if whole is None else whole

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # to be saved without what can be made again

    def _maker(self, gray: Tensor, scale: Sequence[float]) -> Callable[[Tensor], list[Filter]]:
        """What :meth:`_kernels` makes; the last is kept for the next image of the same shape."""
        settings = [value for name, value in vars(self).items() if not name.startswith("_")]
        settings += [self.spatial_weight, self.bilateral_weight]  # parameters are not among the variables
        settings = [id(value) if isinstance(value, Tensor) else value for value in settings]
        key = (gray.shape[2:], gray.device, gray.dtype, *scale, *settings)
        made = self._made  # another thread may put its own there meanwhile
        if made is None or made[0] != key:
            self._made = made = (key, self._kernels(gray, scale))
        return made[1]

    def _mean_field(self, p: Tensor, kernels: list[Filter]) -> Tensor:
        # A message to all labels alike changes nothing, so Q - 1 / C stands for Q: these sum to 0 over the labels,
        # hence the last label's message is minus the sum of the others', and C - 1 filterings are enough.
        steps = self.iterations if kernels else 0
        if p.shape[1] == 2:  # the softmax of two is the sigmoid of their difference, and 2 Q - 1 the tanh of half of it
            half = start = (_log(p[:, :1]) - _log(p[:, 1:])) / 2
            for step in range(steps):
                centered = half.tanh() if step == 0 else half.tanh_()  # 2 Q - 1; the start is kept
                half = torch.add(start, _message(kernels, centered), alpha=0.5)
            difference = 2 * half
            first = difference.sigmoid()
            # Not 1 - first, which has no digits left where the first label is nearly certain.
            return torch.cat([first, (-difference).sigmoid()], dim=1)
        unary = _log(p)
        q = unary.softmax(dim=1)
        for _ in range(steps):
            some = _message(kernels, q[:, :-1] - 1 / p.shape[1])
            q = (unary + torch.cat([some, -some.sum(dim=1, keepdim=True)], dim=1)).softmax(dim=1)
        return q

    def _kernels(self, gray: Tensor, scale: Sequence[float]) -> Callable[[Tensor], list[Filter]]:
        """Gray levels -> their weighted kernels; what depends on the shape alone is made once for all images."""
        shape, device, dtype = gray.shape[2:], gray.device, gray.dtype
        shared: list[Filter] = []
        if _wanted(self.spatial_weight):
            spatial = SpatialFilter(shape, [self.spatial_sigma * s for s in scale], device, dtype)
            shared.append(_normalized(spatial, torch.ones_like(gray[:1]), self.spatial_weight))
        if not _wanted(self.bilateral_weight):
            return lambda images: shared
        sigmas, intensity_sigma = [self.bilateral_sigma * s for s in scale], self.intensity_sigma / math.sqrt(3)
        weight = self.bilateral_weight  # not ``self``, which keeps this function: memory would wait for the collector
        grid = PixelGrid(shape, sigmas, device, dtype) if self.backend == "grid" else None

        def of_images(images: Tensor) -> list[Filter]:
            bilateral: Filter
            if grid is None:
                bilateral = ExactBilateralFilter(images, sigmas, intensity_sigma)
            else:
                bilateral = GridBilateralFilter(images, grid, intensity_sigma)
            return [*shared, _normalized(bilateral, torch.ones_like(images), weight)]

        return of_images

    def _lattice(self, unary: Tensor, gray: Tensor, scale: Sequence[float]) -> Tensor:
        return lattice_mean_field(
            unary,
            gray,
            self.iterations,
            [self.spatial_sigma * s for s in scale] if _wanted(self.spatial_weight) else None,
            float(self.spatial_weight),
            [self.bilateral_sigma * s for s in scale] if _wanted(self.bilateral_weight) else None,
            self.intensity_sigma / math.sqrt(3),
            float(self.bilateral_weight),
        )


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


def checked_spacing(spacing: Sequence[float]) -> tuple[float, ...]:
    """The same as plain numbers.

    Raises:
        ValueError: an entry that is not a positive, finite number.
    """
    numbers = tuple(float(s) for s in spacing)
    if not all(0 < s < math.inf for s in numbers):
        raise ValueError(f"spacing must be positive numbers of mm, not {numbers}")
    return numbers


class _Symmetric(torch.autograd.Function):
    """A symmetric linear filter: it is its own derivative, so nothing between input and output is kept."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: Filter) -> Tensor:
        ctx.kernel = kernel
        return kernel(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        with torch.autocast(gradient.device.type, enabled=False):  # backward() may be called within autocast
            return _Symmetric.apply(gradient, ctx.kernel), None  # type: ignore[no-untyped-call]


def _log(p: Tensor) -> Tensor:
    return p.clamp(SMALLEST_PROBABILITY, 1.0).log()


def _wanted(weight: float | Tensor) -> bool:
    """A weight that is a tensor counts even while it is 0: it may change."""
    return isinstance(weight, Tensor) or bool(weight)


def _message(kernels: list[Filter], values: Tensor) -> Tensor:
    """Sum of the kernels' filterings."""
    total = kernels[0](values)
    for kernel in kernels[1:]:
        total = total + kernel(values) if values.requires_grad else total.add_(kernel(values))
    return total


def _normalized(kernel: Filter, ones: Tensor, weight: float | Tensor) -> Filter:
    """``w N^-1/2 K N^-1/2`` with ``N = diag(K 1)``."""
    with torch.no_grad():
        root = kernel(ones).clamp_min(torch.finfo(ones.dtype).tiny).rsqrt()
    fixed = not isinstance(weight, Tensor)
    last = root * weight if fixed else root

    def whole(values: Tensor) -> Tensor:
        if isinstance(kernel, GridBilateralFilter):
            return kernel.scaled(values, root, last)
        return kernel(root * values).mul_(last)

    def weighted(values: Tensor) -> Tensor:
        filtered = _Symmetric.apply(values, whole) if values.requires_grad else whole(values)  # type: ignore[no-untyped-call]
        return filtered if fixed else filtered * weight

    return weighted


def _check_ranges(p: Tensor, gray: Tensor, intensity_sigma: float) -> None:
    """Refuse what people hand over by mistake: logits, and images on another scale; each image of a batch counts."""
    low, high = (float(v) for v in torch.aminmax(p.detach()))
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(
            f"expected probabilities in [0, 1], not values from {low:g} to {high:g}; apply softmax to logits first"
        )
    flat = gray.flatten(1)
    darkest, brightest = flat.amin(1), flat.amax(1)
    # An image of one value is as good on any scale.
    spread = brightest - darkest
    small = (spread > 0) & (darkest >= -1 - ROUNDING) & (brightest <= 1 + ROUNDING)
    # Gray levels that hardly differ for the kernel are those of a standardized image, unless they are whole numbers.
    narrow = (spread > 0) & (spread < intensity_sigma / math.sqrt(3))
    if bool(narrow.any()):
        small |= narrow & (flat != flat.round()).any(1)
    if bool(small.any()):
        number = int(small.nonzero()[0])
        which = "the image" if len(gray) == 1 else f"image {number} of the batch"
        raise ValueError(
            f"expected gray levels from 0 to 255, but {which} has values from {float(darkest[number]):g} to "
            f"{float(brightest[number]):g}; multiply by 255"
        )


def _checked(probabilities: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    if probabilities.ndim not in (4, 5) or probabilities.shape[1] < 2:
        raise ValueError(
            f"probabilities must be (B, C, H, W) or (B, C, D, H, W) with C >= 2, not {tuple(probabilities.shape)}"
        )
    expected = (probabilities.shape[0], 1, *probabilities.shape[2:])
    if tuple(image.shape) != expected:
        raise ValueError(f"image must have shape {expected} to fit the probabilities, not {tuple(image.shape)}")
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    # Plain tensors: a subclass would have its say, and take its time, at every operation.
    p = probabilities.as_subclass(Tensor).to(dtype).contiguous()
    gray = image.detach().as_subclass(Tensor).to(device=p.device, dtype=dtype).contiguous()
    for name, values in (("probabilities", p), ("image", gray)):
        # The sum first: it takes one pass, and is finite unless something is wrong or huge.
        if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
            raise ValueError(f"{name} must be finite numbers")
    return p, gray
