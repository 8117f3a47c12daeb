"""Weights from files: only tensors are unpickled, and a file that does not fit is named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ichseg.errors import IchsegError

Network = TypeVar("Network", bound=nn.Module)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file written by ``torch.save`` with ``weights_only=True``.

    Raises:
        IchsegError: the file is absent, damaged, or holds more than tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise IchsegError(f"{path}: weight file not found")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise IchsegError(f"{path}: not a weight file, or it holds pickled objects, which are never loaded") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise IchsegError(f"{path}: damaged weight file ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(content, dict):
        raise IchsegError(f"{path}: expected a state dict, found {type(content).__name__}")
    return content


def load_weights(network: Network, path: str | Path | None) -> Network:
    """Load a state dict, or a checkpoint that holds one under ``model``, into ``network`` and return it.

    ``path=None`` leaves the network as it is: training configs use it for random weights.

    Raises:
        IchsegError: the file cannot be read or belongs to another architecture.
    """
    if path is None:
        return network
    state = read_checkpoint(path)
    state = state.get("model", state)
    own = network.state_dict()
    lacking = [key for key in own if key not in state]
    foreign = [key for key in state if key not in own]
    differing = [key for key in own if key in state and getattr(state[key], "shape", None) != own[key].shape]
    if lacking or foreign or differing:
        example = (lacking or foreign or differing)[0]
        raise IchsegError(
            f"{path}: weights of another architecture than {type(network).__name__}: {len(lacking)} keys lack, "
            f"{len(foreign)} are foreign, {len(differing)} differ in shape (first: {example})"
        )
    network.load_state_dict(state)
    return network
