"""Files that are either whole or absent: write to a temporary name, flush, replace."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ichseg.errors import IchsegError

TEMPORARY_PREFIX = ".ichseg-tmp-"
DAY_SECONDS = 86400


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` when the block ends without error.

    The temporary name has an ending of its own, so that no pattern for finished files (``*.nii.gz``) finds it: writers
    that choose a format by the ending are told it. On any error the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path, all_of_them: bool = True) -> None:
    """Remove temporary files that a killed process left below ``folder``.

    Args:
        folder: where to look.
        all_of_them: False spares files younger than a day: another process may be writing them.
    """
    for path in Path(folder).rglob(f"{TEMPORARY_PREFIX}*"):
        if path.is_file() and (all_of_them or path.stat().st_mtime < time.time() - DAY_SECONDS):
            path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that becomes ``target`` when the block ends without error.

    Raises:
        IchsegError: ``target`` exists and is not an empty folder.
    """
    target = Path(target).resolve()  # a link stays a link
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise IchsegError(f"{target}: already exists and is not empty; choose another output folder or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    mounted = os.path.ismount(target)  # such as a volume of a container: it can neither be removed nor replaced
    staged = _beside(target / "content" if mounted else target)
    staged.mkdir()
    try:
        yield staged
        if mounted:
            for part in sorted(staged.iterdir(), key=Path.is_file):  # files, such as the datalist, last
                part.replace(target / part.name)
        else:
            if target.exists():
                target.rmdir()
            staged.replace(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A name that no other process takes, on this machine or on another that shares the folder."""
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}.part")
