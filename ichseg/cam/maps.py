"""Class activation maps from activations and gradients: pure functions, one formula each."""

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
    weights = gradients.flatten(2).mean(dim=2).reshape(*gradients.shape[:2], *[1] * (gradients.ndim - 2))
    return (weights * activations).sum(dim=1).relu()


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++: ``relu(sum_k w_k A_k)`` with ``w_k = sum(alpha_k * relu(g_k))`` over space and
    ``alpha_k = g_k^2 / (2 g_k^2 + sum(A_k g_k^3))``.

    Chattopadhay et al., WACV 2018. Where a denominator is zero its alpha is zero. Shapes as in :func:`layer_cam`.
    """
    _check(activations, gradients)
    axes = tuple(range(2, activations.ndim))
    square = gradients.square()
    below = 2 * square + (activations * square * gradients).sum(dim=axes, keepdim=True)
    alpha = torch.where(below != 0, square / torch.where(below != 0, below, torch.ones_like(below)), 0)
    weights = (alpha * gradients.relu()).sum(dim=axes, keepdim=True)
    return (weights * activations).sum(dim=1).relu()


def min_max(maps: Tensor) -> Tensor:
    """Scale every map to [0, 1] over its last two axes; a constant map becomes zeros (decision D7)."""
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, torch.ones_like(span)), 0)


def _check(activations: Tensor, gradients: Tensor) -> None:
    if activations.shape != gradients.shape or activations.ndim < 3:
        raise ValueError(
            "activations and gradients must have one shape (B, K, ...), "
            f"not {tuple(activations.shape)} and {tuple(gradients.shape)}"
        )
