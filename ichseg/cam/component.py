"""The first principal component of a feature map, as a map."""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("spatial", "channel")


def principal_component(features: Tensor, mode: str = "spatial") -> Tensor:
    """First principal component of the features of every image.

    ``"spatial"`` (default, decision D8): pixels are the samples, channels the variables; each channel is
    centered over space and the map holds the scores of the first component. The paper argues from the variance
    of pixels. ``"channel"``: channels are the samples, pixels the variables; the map is the first component
    vector, of unit length. It takes off the mean-over-channels image first, and with it much of the contrast
    between blood and brain.

    Both come from the K x K matrix of channel products in float64 (``eigh``: exact and repeatable, unlike a
    randomized decomposition).

    Args:
        features: (B, K, h, w), or (B, K, d, h, w).
        mode: ``"spatial"`` or ``"channel"``.

    Returns:
        (B, h, w), or (B, d, h, w); float32 or the wider type of ``features``. The sign is arbitrary: see
        :func:`ichseg.cam.shallow_feature_cam`. Features without variance give zeros.

    Raises:
        ValueError: wrong shape or mode, or features that are not finite.
    """
    if features.ndim not in (4, 5):
        raise ValueError(f"features must have shape (B, K, h, w) or (B, K, d, h, w), not {tuple(features.shape)}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not '{mode}'")
    x = features.detach().flatten(2).double()
    if not bool(x.isfinite().all()):
        raise ValueError("features are not finite: there is no principal component")
    size = x.abs().amax(dim=(1, 2), keepdim=True)
    x = x - x.mean(dim=2 if mode == "spatial" else 1, keepdim=True)
    # What rounding leaves of features without variance is no component.
    x = torch.where(x.abs().amax(dim=(1, 2), keepdim=True) > 1e-12 * size, x, 0)
    # X X^T has the same leading component either way: its eigenvector u gives the scores u^T X, which are the
    # pixel scores in "spatial" mode and, scaled to unit length, the component vector in "channel" mode.
    _, vectors = torch.linalg.eigh(x @ x.transpose(1, 2))
    scores = (vectors[:, :, -1:].transpose(1, 2) @ x).squeeze(1)
    if mode == "channel":
        length = scores.norm(dim=1, keepdim=True)
        scores = torch.where(length > 0, scores / length.clamp_min(torch.finfo(torch.float64).tiny), 0)
    return scores.reshape(len(features), *features.shape[2:]).to(torch.promote_types(features.dtype, torch.float32))
