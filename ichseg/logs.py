"""Loggers that say less: those of libraries for good, some of ours for a while."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quieter(level: int, *names: str) -> Iterator[None]:
    """These loggers tell nothing below ``level``; afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(level)
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def hush_monai() -> None:
    """Commands of ours say what matters; what MONAI and ignite log is for who builds upon them."""
    import monai.data  # noqa: F401  # its loggers are there afterwards

    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("monai", "ignite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
