"""Memory that is freed goes back to the system."""

from __future__ import annotations

import ctypes
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
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(bool(mallopt(name, value)) for name, value in ((M_MMAP_THRESHOLD, LARGE_BYTES), (M_ARENA_MAX, ARENAS)))
