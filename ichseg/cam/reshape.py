"""Layers whose output is not (B, K, h, w): tokens and channels last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

Reshape = str | Callable[[Tensor], Tensor]
# Modules that work on the last axis: what comes out with more than three axes has its channels there.
LAST_AXIS = (nn.LayerNorm, nn.Linear, nn.MultiheadAttention)
FIRST_AXIS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)


def named_reshape(reshape: Reshape) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """A function of (output, size of the image) for a name or a function of the output alone.

    Raises:
        ValueError: unknown name.
    """
    if callable(reshape):
        return lambda values, size: reshape(values)
    if reshape == "channels_last":
        return lambda values, size: values.movedim(-1, 1)
    if reshape == "tokens":
        return from_tokens
    raise ValueError(f"reshape must be 'tokens', 'channels_last' or a function, not '{reshape}'")


def from_tokens(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, K) -> (B, K, h, w) in the proportions of the image; tokens in front, such as the class's, are left out.

    Raises:
        ValueError: no number of patches in these proportions fits.
    """
    if values.ndim != 3 or len(size) != 2:
        raise ValueError(f"tokens have shape (B, N, K) for images of two axes, not {tuple(values.shape)}")
    count = values.shape[1]
    for extra in range(min(count, 9)):  # class, distillation and register tokens
        height = math.isqrt(round((count - extra) * size[0] / size[1]))
        if height and (count - extra) % height == 0:
            width = (count - extra) // height
            if height * size[1] == width * size[0]:
                patches: Tensor = values[:, extra:].transpose(1, 2).unflatten(2, (height, width))
                return patches
    raise ValueError(f"{count} tokens do not fit an image of {size[0]} x {size[1]}; give a function as reshape")


def checked_layout(name: str, module: nn.Module, shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    """Refuse outputs whose axes are not (B, K, ...).

    Args:
        name: of the layer.
        module: the layer.
        shape: of its output.
        size: of the image.

    Raises:
        ValueError: names the shape and says what to do.
    """
    first, last = (any(isinstance(m, kinds) for m in module.modules()) for kinds in (FIRST_AXIS, LAST_AXIS))
    wrong = len(shape) != 2 + len(size)
    if not wrong and first != last:
        wrong = last
    elif not wrong:  # where the layer is made of both, or of neither, its proportions tell
        wrong = not _in_proportion(shape[2:], size) and _in_proportion(shape[1:-1], size)
    if wrong:
        raise ValueError(
            f"layer '{name}' returns shape {shape} for an image of {len(size)} axes, not (B, K, "
            f"{', '.join('hwd'[: len(size)])}); give reshape: 'tokens', 'channels_last' or a function"
        )


def _in_proportion(shape: Sequence[int], size: Sequence[int]) -> bool:
    """True if the axes of a layer are those of the image, all made smaller by the same factor, give or take a pixel."""
    return all(
        abs(shape[0] * size[axis] - shape[axis] * size[0]) <= max(size[0], size[axis]) for axis in range(1, len(size))
    )
