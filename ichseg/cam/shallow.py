"""SF-CAM: a class activation map gated by the first principal component of the same layer's features."""

from __future__ import annotations

import torch
from torch import Tensor

from ichseg.cam.maps import min_max

COMBINATIONS = ("gated", "additive", "literal")
SIGNS = ("cam", "border")
# Below this correlation with the map, the sign of the component is decided by the image border instead.
MINIMUM_CORRELATION = 0.02


def shallow_feature_cam(cam: Tensor, component: Tensor, combine: str = "gated", sign: str = "cam") -> Tensor:
    """Combine a normalized map C with the first principal component P of the same layer.

    The component is first oriented (:func:`oriented`) and scaled to [0, 1]; a constant one counts as 1.

    - ``"gated"`` (default, D10): ``(C + P * C) / 2``. Read from the paper's text: the component, cleaned of its
      background by multiplication with the map, is averaged with the map. Stays within [C/2, C].
    - ``"additive"``: ``(C + P) / 2``.
    - ``"literal"``: ``(2 C + P) / 2``, the expression as printed, with its operators lost; reaches 1.5.

    Args:
        cam: (B, h, w) or (B, d, h, w) in [0, 1], e.g. ``min_max(layer_cam(...))``.
        component: same shape, of any sign and scale.
        combine: one of the three above.
        sign: rule for the component's sign, see :func:`oriented`.

    Returns:
        the shape of ``cam``.

    Raises:
        ValueError: shapes differ, or ``combine`` or ``sign`` is unknown.
    """
    if cam.shape != component.shape:
        raise ValueError(f"cam {tuple(cam.shape)} and component {tuple(component.shape)} must have the same shape")
    if combine not in COMBINATIONS:
        raise ValueError(f"combine must be one of {', '.join(COMBINATIONS)}, not '{combine}'")
    axes = tuple(range(1, cam.ndim))
    shown = min_max(oriented(component, cam, sign), len(axes))
    constant = component.amax(dim=axes, keepdim=True) == component.amin(dim=axes, keepdim=True)
    gate = torch.where(constant, torch.ones_like(shown), shown).to(cam.dtype)
    if combine == "gated":
        return (cam + gate * cam) / 2
    return (cam + gate) / 2 if combine == "additive" else (2 * cam + gate) / 2


def oriented(component: Tensor, cam: Tensor, sign: str = "cam") -> Tensor:
    """Fix the arbitrary sign of a component (decision D9; the paper is silent).

    Args:
        component: (B, h, w) or (B, d, h, w).
        cam: same shape.
        sign: ``"cam"`` (default): the sign with a non-negative Pearson correlation to the map wins; where the
            correlation is too weak to tell, the border decides. ``"border"``: always the sign whose frame, one pixel
            wide and air on a head CT, lies mostly below the mean (the rule of the work the gate descends from).

    Raises:
        ValueError: unknown ``sign``.
    """
    if sign not in SIGNS:
        raise ValueError(f"sign must be one of {', '.join(SIGNS)}, not '{sign}'")
    axes = tuple(range(1, component.ndim))
    p = (component - component.mean(dim=axes, keepdim=True)).double()
    c = (cam - cam.mean(dim=axes, keepdim=True)).double()
    length = (p.square().sum(dim=axes) * c.square().sum(dim=axes)).sqrt()
    correlation = (p * c).sum(dim=axes) / length.clamp_min(torch.finfo(torch.float64).tiny)
    frame = torch.ones(p.shape[1:], dtype=torch.bool, device=p.device)
    frame[tuple(slice(1, -1) for _ in axes)] = False
    border = p[:, frame]
    bright_border = (border > 0).double().mean(dim=1) - (border < 0).double().mean(dim=1)
    # Half above and half below the mean is a tie, which the frame's mean breaks: both signs must end the same.
    bright_border = torch.where(bright_border == 0, border.mean(dim=1), bright_border)
    # A last tie is broken by the first pixel off the mean.
    flat = p.flatten(1)
    first = flat.gather(1, (flat != 0).int().argmax(dim=1, keepdim=True))[:, 0]
    bright_border = torch.where(bright_border == 0, first, bright_border)
    flip = bright_border > 0
    if sign == "cam":
        flip = torch.where(correlation.abs() < MINIMUM_CORRELATION, flip, correlation < 0)
    return torch.where(flip.reshape(-1, *[1] * len(axes)), -component, component)
