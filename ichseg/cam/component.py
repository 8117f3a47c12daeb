"""The first principal component of a feature map, as a map."""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("spatial", "channel")
# Products with the matrix; the leading eigenvector of feature maps stands after some twenty.
LANCZOS_STEPS = 48
# Up to this size a CPU is done with all eigenvectors before Lanczos has the first.
SMALL = 256
# Numbers that are centered at once, in float64: a batch of shallow layers would be hundreds of MB to go through.
CHUNK = {"cpu": 2**18, "cuda": 2**24}


def principal_component(features: Tensor, mode: str = "spatial") -> Tensor:
    """First principal component of the features of every image.

    ``"spatial"`` (default, decision D8): pixels are the samples, channels the variables; each channel is
    centered over space and the map holds the scores of the first component. The paper argues from the variance
    of pixels. ``"channel"``: channels are the samples, pixels the variables; the map is the first component
    vector, of unit length. It takes off the mean-over-channels image first, and with it much of the contrast
    between blood and brain.

    Both come from the K x K matrix of channel products and its leading eigenvector, to the last digits and the same on
    every run (:func:`leading_eigenvector`), unlike a randomized decomposition.

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
    if len(features) == 0:
        return features.new_zeros(0, *features.shape[2:])
    x = features.detach().flatten(2)
    # Centered in float64; the products of pixels are made in the features' own precision and added up in float64.
    digits = torch.promote_types(features.dtype, torch.float32)
    step = max(64, CHUNK.get(x.device.type, CHUNK["cuda"]) // x.shape[:2].numel())
    starts = range(0, x.shape[2], step)

    def pixels(start: int) -> Tensor:
        return x[:, :, start : start + step].to(torch.float64, copy=True)

    mean = torch.stack([pixels(start).sum(dim=2, keepdim=True) for start in starts]).sum(dim=0) / x.shape[2]
    # X X^T has the same leading component either way: its eigenvector u gives the scores u^T X, which are the
    # pixel scores in "spatial" mode and, scaled to unit length, the component vector in "channel" mode.
    products = torch.zeros(len(x), x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    energy = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    centered = []
    for start in starts:
        part = pixels(start)
        energy += part.square().sum(dim=(1, 2))
        part -= part.mean(dim=1, keepdim=True) if mode == "channel" else mean
        centered.append(part.to(digits))
        with torch.autocast(x.device.type, enabled=False):
            products += centered[-1] @ centered[-1].transpose(1, 2)
    if not bool(energy.isfinite().all() and products.isfinite().all()):
        raise ValueError("features are not finite; cannot compute the principal component")
    vectors = leading_eigenvector(products).to(digits)[:, None]
    with torch.autocast(x.device.type, enabled=False):
        scores = torch.cat([(vectors @ part)[:, 0] for part in centered], dim=1).double()
    # What rounding leaves of features without variance is no component.
    variance = products.diagonal(dim1=1, dim2=2).sum(dim=1)
    scores = torch.where((variance > 1e-24 * energy)[:, None], scores, 0)
    if mode == "channel":
        length = scores.norm(dim=1, keepdim=True)
        scores = torch.where(length > 0, scores / length.clamp_min(torch.finfo(torch.float64).tiny), 0)
    return scores.reshape(len(features), *features.shape[2:]).to(digits)


def leading_eigenvector(matrices: Tensor) -> Tensor:
    """Unit eigenvectors of the largest eigenvalues of symmetric, positive semidefinite matrices.

    Lanczos' method with full orthogonalization: some tens of products with the matrix in the place of all its K
    eigenvectors. Where the result is not an eigenvector to twelve digits (the largest eigenvalues are as good as
    equal), and for small matrices, ``eigh`` of the whole matrix decides.

    Args:
        matrices: (B, K, K) of float64.

    Returns:
        (B, K), of either sign.
    """
    size = matrices.shape[-1]
    if size <= (SMALL if matrices.device.type == "cpu" else LANCZOS_STEPS):
        last: Tensor = torch.linalg.eigh(matrices)[1][..., -1]
        return last
    tiny = torch.finfo(matrices.dtype).tiny
    # Any start will do that has a share of every eigenvector; the same one on every run.
    start = torch.cos(torch.arange(size, device=matrices.device, dtype=matrices.dtype) ** 2)
    vector = start.expand(len(matrices), size)
    basis = matrices.new_zeros(len(matrices), LANCZOS_STEPS, size)
    inner = matrices.new_zeros(len(matrices), LANCZOS_STEPS, LANCZOS_STEPS)
    length = vector.norm(dim=1, keepdim=True)
    for step in range(LANCZOS_STEPS):
        # Once the space is used up nothing is left but rounding; zeros then add nothing.
        basis[:, step] = torch.where(length > 0, vector / length.clamp_min(tiny), 0)
        vector = (matrices @ basis[:, step, :, None])[..., 0]
        inner[:, step, step] = (vector * basis[:, step]).sum(dim=1)
        known = basis[:, : step + 1]
        for _ in range(2):  # once is not enough in floating point
            vector = vector - ((known @ vector[..., None]).transpose(1, 2) @ known)[:, 0]
        length = vector.norm(dim=1, keepdim=True)
        length = torch.where(length > 1e-14 * inner[:, :1, 0].abs(), length, 0)
        if step + 1 < LANCZOS_STEPS:
            inner[:, step, step + 1] = inner[:, step + 1, step] = length[:, 0]
    values, vectors = torch.linalg.eigh(inner)
    found: Tensor = (vectors[..., -1:].transpose(1, 2) @ basis)[:, 0]
    residual = ((matrices @ found[..., None])[..., 0] - values[:, -1:] * found).norm(dim=1)
    doubtful = (residual > 1e-12 * values[:, -1].abs()) | (found.norm(dim=1) < 0.5)
    if bool(doubtful.any()):
        found[doubtful] = torch.linalg.eigh(matrices[doubtful])[1][..., -1]
    return found
