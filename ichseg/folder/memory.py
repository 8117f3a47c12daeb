"""Memory that is freed goes back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys

# Names and numbers of glibc's malloc.h.
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BYTES = 12 * 2**20
ARENAS = 2


def return_freed_memory() -> bool:
    """Have glibc give large blocks back when they are freed, in every thread; True if it will.

    By default it keeps what batches and volumes of different sizes leave, once for every thread, which may be more than
    a scan needs. Where there is another C library nothing is changed.
    """
    library = _glibc()
    values = (M_MMAP_THRESHOLD, LARGE_BYTES), (M_ARENA_MAX, ARENAS)
    return library is not None and all(bool(library.mallopt(*value)) for value in values)


def return_small_blocks() -> bool:
    """Have glibc give back what small blocks left, a hundred MiB after a pass of the network; True if it did.

    It takes 10 ms, and is for moments at which much was freed.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is one with these functions."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):
        return None
