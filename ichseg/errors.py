"""Errors a user can fix. Their message is one line that names the file or key and says what to do."""

from __future__ import annotations

import errno

# Errors of an output folder that no other scan would escape: no space, or read-only.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Exit codes of every command, whichever way it was started.
DONE, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
INTERRUPTION = "interrupted; rerun the same command to resume"


class IchsegError(Exception):
    """Wrong usage or set-up: the command ends with exit code 2 and this one line."""


class Stopped(IchsegError):
    """A run cannot continue, for example because the disk is full; finished work is kept."""


class ScanError(IchsegError):
    """One scan cannot be used: its case fails, the others go on."""


class NotAScan(ScanError):
    """A file that is fine but holds no head CT, such as a scout: it is skipped."""


def one_line(error: BaseException) -> str:
    """The most telling single line of an exception chain.

    MONAI wraps what a transform raises several times over; the innermost error of ours says what is
    wrong with which file, and where there is none, the first cause says most.
    """
    links = chain(error)
    ours = [link for link in links if isinstance(link, IchsegError)]
    told = ours[0] if ours else links[-1]
    text = " ".join(str(told).split())
    if text and (ours or isinstance(told, ValueError)):  # a refused value says enough
        return text
    return f"{type(told).__name__}: {text}" if text else type(told).__name__


def is_set_up(error: BaseException) -> bool:
    """True for wrong usage and values that were refused: what a user can mend, and no fault of the program."""
    return isinstance(first_cause(error), ValueError) or any(isinstance(link, IchsegError) for link in chain(error))


def first_cause(error: BaseException) -> BaseException:
    """What an exception chain began with."""
    return chain(error)[-1]


def chain(error: BaseException) -> list[BaseException]:
    """An exception, what caused it, what caused that, ...; each once, even if the chain is circular."""
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return links
