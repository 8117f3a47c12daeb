"""A folder in object storage."""

from __future__ import annotations

import posixpath
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError, one_line
from ichseg.folder.journal import inside
from ichseg.provenance import file_hash

# Under which names the kinds of storage tell the version of an object, those that listings leave out or change last.
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "generation", "LastModified", "last_modified",
            "Last-Modified", "created", "modified", "modificationTime", "modify", "mtime")  # fmt: skip
# Storage without folders: their names need not be made first, and making them would make buckets.
FLAT = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"))
TRIES, WAIT_S = 3, 2.0
AT_ONCE = 8  # transfers


class Store:
    """A folder in object storage.

    Args:
        url: of the folder, or of an object, which then has the name "".

    Raises:
        IchsegError: fsspec or the package for this kind of storage is not installed, or it cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise IchsegError(f'{url}: object storage needs packages: pip install "ichseg[remote]"') from None
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url.rstrip("/"))
        except ImportError as error:
            raise IchsegError(f'{url}: {one_line(error)}: pip install "ichseg[remote]"') from None
        except ValueError as error:
            raise IchsegError(f"{url}: {one_line(error)}") from None
        self.url = url.rstrip("/")
        kinds = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self.flat = bool(kinds & FLAT)

    def files(self) -> dict[str, tuple[int, str]]:
        """Every object below, by its name relative to the folder: bytes and version. Nothing there: none."""
        self.fs.invalidate_cache()
        found = told(self.url, lambda: self.fs.find(self.root, withdirs=False, detail=True))
        below = self.root.rstrip("/") + "/"  # this alone is an object that stands for the folder
        return {
            path[len(below) :]: _identity(info)
            for path, info in found.items()
            if path.startswith(below) and path != below and inside(path[len(below) :])
        }

    def info(self, name: str = "") -> tuple[int, str] | None:
        """Bytes and version of an object; None if there is none."""
        self.fs.invalidate_cache()
        try:
            info = self.fs.info(self.path(name))
        except FileNotFoundError:
            return None
        return None if info.get("type") == "directory" else _identity(info)

    def fetch(self, name: str, file: Path) -> None:
        """An object as a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.part")
        again(lambda: self.fs.get_file(self.path(name), str(unfinished)))
        unfinished.replace(file)

    def sha256(self, name: str) -> str:
        """Of an object, which is fetched for it."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(name, Path(folder) / "object")
            return file_hash(Path(folder) / "object")

    def send(self, file: Path, name: str) -> tuple[int, str]:
        """A file as an object; returns its bytes and version."""
        if not self.flat:
            self.fs.makedirs(posixpath.dirname(self.path(name)), exist_ok=True)
        again(lambda: self.fs.put_file(str(file), self.path(name)))
        made = self.info(name)
        if made is None or made[0] != file.stat().st_size:
            raise IchsegError(f"{self.url}/{name}: the upload is incomplete")
        return made

    def rename(self, name: str, new: str) -> None:
        """Another name for an object; not ``mv``, for which brackets in names are patterns."""
        self.fs.cp_file(self.path(name), self.path(new))
        self.remove(name)

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.fs.rm_file(self.path(name))

    def changed(self, name: str) -> float | None:
        """When an object was written, in seconds; None where storage does not say."""
        try:
            return self.fs.modified(self.path(name)).timestamp()
        except (NotImplementedError, FileNotFoundError):
            return None

    def path(self, name: str) -> str:
        """The object's name as fsspec has it."""
        return posixpath.join(self.root, name) if name else self.root


def _identity(info: Mapping[str, Any]) -> tuple[int, str]:
    """Bytes and version."""
    for key in VERSIONS:
        if (value := info.get(key)) is not None:
            plain = value.timestamp() if isinstance(value, datetime) else value  # listings and objects differ in this
            return int(info["size"] or 0), str(plain).strip('"')
    return int(info["size"] or 0), ""


def is_there(url: str) -> bool:
    """True if there is an object with this URL."""
    return told(url, Store(url).info) is not None


def again(act: Callable[[], Any]) -> Any:
    """What an act on storage gives, tried a few times: networks have bad moments."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return act()
        except FileNotFoundError:
            raise
        except Exception:  # every kind of storage has errors of its own
            if not left:
                raise
            time.sleep(WAIT_S * (TRIES - left))


def told(url: str, act: Callable[[], Any]) -> Any:
    """What an act on storage gives, tried again as :func:`again` does.

    Raises:
        IchsegError: one line with the URL.
    """
    try:
        return again(act)
    except IchsegError:
        raise
    except Exception as error:  # every kind of storage has errors of its own
        raise IchsegError(f"{url}: {one_line(error) or type(error).__name__}") from error
