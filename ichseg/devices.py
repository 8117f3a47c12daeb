"""Which device a run uses, and saying so."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from torch import nn

from ichseg.errors import IchsegError

logger = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` (CUDA if there is one, else CPU), ``cpu``, ``gpu``, ``cuda`` or ``cuda:N`` -> device, which is logged.

    Raises:
        IchsegError: the device is not there.
    """
    text = str(name).lower()
    if text.split(":")[0] == "gpu":  # what TotalSegmentator and others call it
        text = text.replace("gpu", "cuda", 1)
    count = torch.cuda.device_count()
    if text == "auto":
        text = "cuda:0" if count else "cpu"
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise IchsegError(f"device '{name}' is unknown; use auto, cpu, gpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= count:
        raise IchsegError(f"device '{name}' is not available: {count} CUDA device(s) found; use --device auto or cpu")
    device = torch.device(text)
    label = torch.cuda.get_device_name(device) if kind == "cuda" else f"{torch.get_num_threads()} threads"
    logger.info("device: %s (%s)", device, label)
    return device


def slices_per_pass(batch_size: int | None, device: torch.device | str, on_cpu: int = 2, on_gpu: int = 16) -> int:
    """The batch size that was asked for; None: what suits the device. A CPU's caches hold a few slices only."""
    return batch_size or (on_cpu if torch.device(device).type == "cpu" else on_gpu)


def place(network: Network, device: torch.device | str) -> Network:
    """Move a 2-D network to the device in channels-last layout, which is the faster one on CPU and GPU."""
    return network.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
