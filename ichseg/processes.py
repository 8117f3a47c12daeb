"""The processes of one training: which of them this is, and what only one of them makes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Made = TypeVar("Made")


def place_and_count() -> tuple[int, int]:
    """This process's number, from 0, and how many there are: (0, 1) outside of a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def is_rank_zero() -> bool:
    """True in the process that writes files, and in any single process."""
    return place_and_count()[0] == 0


def same_in_all_processes(value: Any) -> bool:
    """True if each process of the group has the same value; it must be called by all of them."""
    count = place_and_count()[1]
    if count == 1:
        return True
    values: list[Any] = [None] * count
    dist.all_gather_object(values, value)
    return all(one == values[0] for one in values)


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
