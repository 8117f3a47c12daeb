"""Imports that wait until they are needed, or are left out: torch takes 1.5 s, all of MONAI 2.5 s more."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from ichseg.errors import INTERRUPTED, INTERRUPTION


def imported_late(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` (PEP 562) of a package.

    Args:
        package: its ``__name__``.
        modules: name -> module inside the package that has it.
    """

    def found(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return found


_one_at_a_time = threading.Lock()
# What MONAI and Ignite import at once, and what only segments never calls -> the names taken from it, if without a
# check whether it is there.
UNUSED: dict[str, tuple[str, ...]] = {
    "matplotlib": (),
    "scipy.signal": (),
    "tensorboard": (),
    "torch.distributed.optim": ("ZeroRedundancyOptimizer",),
}


def import_monai() -> None:
    """Import MONAI without ``UNUSED``, where nothing has imported it yet: in half of the time, and with 100 MiB less.

    For commands that only segment. MONAI's own functions that need a part of it, such as ``matshow3d``, then say that
    it is missing, and Ignite's ``Checkpoint`` takes a ``ZeroRedundancyOptimizer`` for any other; a part can be
    imported afterwards. Other threads must not import one meanwhile.
    """
    with _one_at_a_time, _ended_at_once():
        absent = {name: _stand_in(name, taken) for name, taken in UNUSED.items() if name not in sys.modules}
        if "monai" in sys.modules:
            absent.clear()
        sys.modules.update(absent)  # type: ignore[arg-type]
        try:
            import monai  # noqa: F401  # waits for a thread that has begun
        finally:
            for name in absent:
                del sys.modules[name]


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Ctrl-C ends the process: libraries that are being imported pass an exception on as another, or not at all."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield
        return

    def end(*_: Any) -> None:
        os.write(2, f"ichseg: {INTERRUPTION}\n".encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _stand_in(name: str, taken: Sequence[str]) -> ModuleType | None:
    """A module with nothing but these classes; None, which makes importing it an ImportError, if there are none."""
    if not taken:
        return None
    module = ModuleType(name)
    vars(module).update({each: type(each, (), {"__module__": name}) for each in taken})
    return module
