"""Networks that one thread at a time may change: hooks, modes and flags belong to the modules that share them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

WAIT_SECONDS = 120.0
_changed = threading.Condition()
_used: dict[int, tuple[int, int]] = {}  # id of a module -> thread that uses it, and how many times over


@contextmanager
def sole_use(*models: nn.Module, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """No other thread uses any module of these networks inside the block; a thread may enter again.

    All are taken at once, so that threads which want the same networks in another order do not wait for each other.

    Raises:
        RuntimeError: another thread did not let go in time, such as one that itself waits for this one.
    """
    mine = threading.get_ident()
    ids = {id(module) for model in models for module in model.modules()}

    def free() -> bool:
        return all(_used.get(one, (mine, 0))[0] == mine for one in ids)

    with _changed:
        if not _changed.wait_for(free, wait):
            raise RuntimeError(
                f"another thread has used this network for {wait:.0f} s; leave its 'with' block first, or give every "
                "thread a copy of the network"
            )
        for one in ids:
            _used[one] = (mine, _used.get(one, (mine, 0))[1] + 1)
    try:
        yield
    finally:
        with _changed:
            for one in ids:
                times = _used[one][1] - 1
                if times:
                    _used[one] = (mine, times)
                else:
                    del _used[one]
            _changed.notify_all()
