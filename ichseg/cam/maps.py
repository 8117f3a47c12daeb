"""Class activation maps from activations and what weights them: pure functions, one formula each."""

from __future__ import annotations

import torch
from torch import Tensor


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM: ``relu(sum_k relu(g_k) * A_k)``, every pixel weighted by its own gradient.

    Jiang et al., IEEE TIP 2021 (the paper's print lost the sum over channels).

    Args:
        activations: (B, K, ...) feature maps of one layer; two or three spatial axes.
        gradients: same shape, of the class logit (never of the softmax).

    Returns:
        (B, ...) raw maps, not normalized.
    """
    _check(activations, gradients)
    return (gradients.relu() * activations).sum(dim=1).relu()


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: ``relu(sum_k mean(g_k) * A_k)``, every channel weighted by its mean gradient.

    Selvaraju et al., ICCV 2017. Shapes as in :func:`layer_cam`.
    """
    _check(activations, gradients)
    return _weighted(activations, gradients.flatten(2).mean(dim=2)).relu()


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++: ``relu(sum_k w_k A_k)`` with ``w_k = sum(alpha_k * relu(g_k))`` over space and
    ``alpha_k = g_k^2 / (2 g_k^2 + sum(A_k g_k^3))``.

    Chattopadhay et al., WACV 2018. Where a denominator is zero its alpha is zero. Shapes as in :func:`layer_cam`.
    """
    _check(activations, gradients)
    return _plus_plus(activations, gradients, gradients.square(), gradients.pow(3))


def smooth_grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """SmoothGrad-CAM++: Grad-CAM++ whose powers of the gradient are means over noisy copies of the input.

    ``relu(sum_k w_k A_k)`` with ``w_k = sum(alpha_k * relu(mean(g_k)))`` over space and
    ``alpha_k = mean(g_k^2) / (2 mean(g_k^2) + sum(A_k mean(g_k^3)))``, the means over the copies; A is that of the
    clean input. Omeiza et al., 2019. One copy without noise is Grad-CAM++.

    Args:
        activations: (B, K, ...) of the clean input.
        gradients: (n, B, K, ...), one per noisy copy.
    """
    if gradients.ndim != activations.ndim + 1:
        raise ValueError(f"gradients of the noisy copies must have shape (n, B, K, ...), not {tuple(gradients.shape)}")
    _check(activations, gradients[0])
    return _plus_plus(activations, gradients.mean(0), gradients.square().mean(0), gradients.pow(3).mean(0))


def score_cam(activations: Tensor, scores: Tensor) -> Tensor:
    """Score-CAM: ``relu(sum_k w_k A_k)``, ``w = softmax_k(score of the input seen through channel k)``.

    Wang et al., CVPR workshops 2020. The published weights subtract the score of a baseline image first; the
    softmax over channels is the same with any baseline, so none is asked for.

    Args:
        activations: (B, K, ...).
        scores: (B, K) class logits of the input multiplied with channel k scaled to [0, 1] and upsampled.
    """
    if scores.shape != activations.shape[:2]:
        raise ValueError(f"scores must have shape {tuple(activations.shape[:2])}, not {tuple(scores.shape)}")
    return _weighted(activations, scores.softmax(dim=1)).relu()


def class_activation_map(activations: Tensor, weights: Tensor) -> Tensor:
    """CAM: ``sum_k w_k A_k`` with the class's weights in the linear layer that follows global average pooling.

    Zhou et al., CVPR 2016. Not rectified: negative values speak against the class.

    Args:
        activations: (B, K, ...) of the layer that is averaged.
        weights: (K,).
    """
    if weights.shape != activations.shape[1:2]:
        raise ValueError(f"weights must have shape ({activations.shape[1]},), not {tuple(weights.shape)}")
    return _weighted(activations, weights.expand(activations.shape[:2]))


def min_max(maps: Tensor, spatial_axes: int = 2) -> Tensor:
    """Scale every map to [0, 1] over its last ``spatial_axes`` axes; a constant map becomes zeros (decision D7).

    Args:
        maps: (..., h, w), or (..., d, h, w) with ``spatial_axes=3``.
        spatial_axes: how many of the last axes are space.
    """
    axes = tuple(range(-spatial_axes, 0))
    low = maps.amin(dim=axes, keepdim=True)
    span = maps.amax(dim=axes, keepdim=True) - low
    return torch.where(span == 0, 0, (maps - low) / torch.where(span == 0, torch.ones_like(span), span))


def _plus_plus(activations: Tensor, first: Tensor, square: Tensor, cube: Tensor) -> Tensor:
    """Grad-CAM++ from the first three powers of the gradient."""
    axes = tuple(range(2, activations.ndim))
    below = 2 * square + (activations * cube).sum(dim=axes, keepdim=True)
    alpha = torch.where(below != 0, square / torch.where(below != 0, below, torch.ones_like(below)), 0)
    return _weighted(activations, (alpha * first.relu()).sum(dim=axes)).relu()


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """Channels (B, K, ...) summed with weights (B, K)."""
    return (activations * weights.reshape(*weights.shape, *[1] * (activations.ndim - 2))).sum(dim=1)


def _check(activations: Tensor, gradients: Tensor) -> None:
    if activations.shape != gradients.shape or activations.ndim < 3:
        raise ValueError(
            "activations and gradients must have the same shape (B, K, ...), "
            f"not {tuple(activations.shape)} and {tuple(gradients.shape)}"
        )
