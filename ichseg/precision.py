"""Lower precision where it is asked for, and a way to have full precision all the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch

from ichseg.defaults import PRECISIONS
from ichseg.errors import IchsegError

logger = logging.getLogger(__name__)
_full: ContextVar[bool] = ContextVar("full precision", default=False)


def checked_precision(name: str) -> str:
    """The name itself.

    Raises:
        IchsegError: not one of :data:`PRECISIONS`.
    """
    if name not in PRECISIONS:
        raise IchsegError(f"precision '{name}' is unknown; use one of {', '.join(PRECISIONS)}")
    return name


def lower_type(precision: str) -> torch.dtype | None:
    """What a network's forward pass runs in; None for full precision, and for any inside :func:`full_precision`."""
    return torch.bfloat16 if precision == "bf16" and not _full.get() else None


@lru_cache(maxsize=1)
def warn_of_slow_bf16() -> None:
    """Say once that this processor only emulates bfloat16, if so: networks then take many times as long as in fp32."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is not None and not supported():
        logger.warning("precision bf16: this processor has no instructions for it; fp32 is many times faster here")


@contextmanager
def full_precision() -> Iterator[None]:
    """Everything in fp32 inside the block, whatever was chosen: to see what the choice changes."""
    token = _full.set(True)
    try:
        yield
    finally:
        _full.reset(token)
