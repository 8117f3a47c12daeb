"""Going through folders of scans."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ichseg.errors import IchsegError

Unreadable = Callable[[OSError], None]


def refuse(error: OSError) -> None:
    """
    Raises:
        IchsegError: names the folder that cannot be read.
    """
    raise IchsegError(f"{error.filename}: cannot be read ({error.strerror})")


def walk(
    folder: str | Path, exclude: Path | None = None, unreadable: Unreadable = refuse
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those below it, sorted: its path, the names of its folders, and of its files.

    Hidden files and folders are passed by, and links are not followed into folders.

    Args:
        folder: where to begin.
        exclude: a folder to leave out, resolved.
        unreadable: called with the error of a folder that cannot be read; what is in it must not be passed over in
            silence.

    Raises:
        IchsegError: a folder cannot be read, unless ``unreadable`` does something else.
    """
    for here, folders, names in os.walk(folder, followlinks=False, onerror=unreadable):
        path = Path(here)
        folders[:] = sorted(one for one in folders if not one.startswith(".") and (path / one).resolve() != exclude)
        yield path, folders, sorted(name for name in names if not name.startswith("."))
