"""The processes of one training: which of them this is, and what only one of them makes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from ichseg.errors import IchsegError

Made = TypeVar("Made")


def place_and_count() -> tuple[int, int]:
    """This process's number, from 0, and how many there are: (0, 1) outside of a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def is_rank_zero() -> bool:
    """True in the process that writes files, and in any single process."""
    return place_and_count()[0] == 0


def check_same_files(path: str | Path, value: Any) -> None:
    """Refuse to go on where the processes of the group see different files; called by all of them.

    Args:
        path: the file or folder.
        value: what a process has found there.

    Raises:
        IchsegError: not all have found the same.
    """
    values: list[Any] = [value] * place_and_count()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    if any(one != value for one in values):
        raise IchsegError(f"{path}: not the same for all processes; they need one output folder that all can read")


def made_once(read: Callable[[], Made | None], make: Callable[[], Made]) -> Made:
    """What is read from a file or, where that finds nothing, made and kept there.

    In a process group the first process of each machine makes it, and the others wait for the file, for as long as it
    takes: a barrier would give up after minutes.

    Args:
        read: None if there is nothing yet.
        make: makes it and writes what ``read`` reads.
    """
    found = read()
    if found is None and (place_and_count()[1] == 1 or os.environ.get("LOCAL_RANK", "0") == "0"):
        return make()
    while found is None:
        time.sleep(0.5)
        found = read()
    return found
