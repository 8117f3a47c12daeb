"""Is this already made, of the same things? One answer for trainings, caches, experiments and folder runs.

What something was made of is a value of plain types (:func:`describe` makes one of transforms). Folders keep the value
itself (:class:`Record`), so that a difference can be named; caches keep its hash.
"""

from __future__ import annotations

import enum
import errno
import functools
import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import IO, Any

import numpy as np

from ichseg.errors import IchsegError
from ichseg.io.atomic import write_text

BLOCK = 2**20
GZIP_END = 8  # bytes: CRC-32 and size of the content (RFC 1952)
GZIP_EXTRA = 4  # flag of a header with an extra field, in which bgzip writes the size of each part
RECORD = "made_of.json"
EARLY_RECORDS = ("made_with.json", "preset.json", "settings.json", "complete")  # of versions before 0.7
# How something is computed, where, and what MONAI keeps besides: the result is the same.
IMMATERIAL = frozenset((
    "R", "allow_missing_keys", "batch_size", "cache_dir", "device", "log_stats", "map_items", "meta_key_postfix",
    "meta_keys", "orig_meta_keys", "output_dir", "overrides", "root", "training", "unpack_items", "workers",
))  # fmt: skip
# Private attributes of MONAI's transforms that decide what they do.
MATERIAL = frozenset(("_loader",))
AS_USUAL = "as in the config"


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    found = hashlib.sha256()
    if not Path(path).is_file():  # reading a pipe would wait for ever
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with Path(path).open("rb") as stream:
        while block := stream.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def content_mark(path: str | Path) -> str:
    """A checksum of what a file holds. That of a ``.gz`` file stands at its end, so that little is read; one of several
    parts, as bgzip writes it, is read whole.

    Returns:
        in hexadecimal: CRC-32 and size of the content. Of a folder, a hash of the names and sizes in it. Empty if there
        is nothing.
    """
    path = Path(path)
    if path.is_dir():
        return value_hash(sorted([file.name, file.stat().st_size] for file in path.iterdir() if file.is_file()))
    if not path.is_file():
        return ""
    found, size = 0, path.stat().st_size
    with path.open("rb") as stream:
        content: IO[bytes] = stream
        if path.suffix == ".gz" and size > GZIP_END:
            in_parts = stream.read(4)[3] & GZIP_EXTRA
            stream.seek(-GZIP_END, os.SEEK_END)
            end = stream.read()
            if not in_parts and any(end):
                return end[::-1].hex()
            stream.seek(0)
            content, size = gzip.GzipFile(fileobj=stream), 0  # type: ignore[assignment]
        try:
            while block := content.read(BLOCK):
                found = zlib.crc32(block, found)
                size += len(block) if content is not stream else 0
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return file_hash(path)  # whoever reads the scan says what is wrong with it
    return f"{size & 0xFFFFFFFF:08x}{found:08x}"


def value_hash(value: Any) -> str:
    """SHA-256 of nested dicts, lists, numbers and strings; other objects count as their text."""
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def network_hash(network: Any) -> str:
    """SHA-256 of a torch network: its weights, its layout, and the plain attributes of its modules.

    What its code does beyond these is not seen.
    """
    import torch

    found = hashlib.sha256()
    for name, module in network.named_modules():
        plain = {k: described for k, v in vars(module).items() if (described := _plain_attribute(v)) is not None}
        plain.pop("training", None)
        found.update(repr((name, type(module).__name__, sorted(plain.items()))).encode())
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _plain_attribute(value: Any) -> Any:
    """An attribute of a module as what its text tells: plain values, lists of them, functions, tensors; else None."""
    if isinstance(value, bool | int | float | str | tuple):
        return value
    if isinstance(value, list) and all(isinstance(one, bool | int | float | str | tuple) for one in value):
        return value
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "detach") and hasattr(value, "dtype"):  # a tensor that is neither parameter nor buffer
        return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return None


def describe(value: Any, _seen: dict[int, Any] | None = None) -> Any:
    """What an object of a config was built with, in plain types.

    An object's own ``described()`` decides; else its class and its attributes are taken, MONAI's and ichseg's without
    the private ones. Of networks, arrays and functions a hash is taken. Paths, devices and what is in
    :data:`IMMATERIAL` are left out. What cannot be looked into counts as its text, so that it may differ in every run
    and nothing is reused.
    """
    seen = {} if _seen is None else _seen
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return {str(k): describe(v, seen) for k, v in value.items() if k not in IMMATERIAL and _counts(v)}
    if isinstance(value, set | frozenset):
        return sorted((describe(v, seen) for v in value if _counts(v)), key=lambda one: json.dumps(one, default=str))
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [describe(v, seen) for v in value if _counts(v)]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, type | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    house = type(value).__module__.split(".")[0] in ("ichseg", "monai")
    kind = type(value).__qualname__ if house else f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in seen:
        return {kind: "as above"}
    seen[id(value)] = value  # kept, so that no other object takes its id meanwhile
    if isinstance(value, FunctionType | MethodType):
        return {f"{value.__module__}.{value.__qualname__}": describe(_code(value), seen)}
    if isinstance(value, functools.partial):
        return {"partial": describe([value.func, value.args, value.keywords], seen)}
    if hasattr(value, "state_dict") and hasattr(value, "named_modules"):
        return {kind: network_hash(value)}
    if hasattr(value, "dtype") and hasattr(value, "shape"):  # an array, a tensor, or a number of numpy
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        return {str(array.dtype): [list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]}
    own = getattr(value, "described", None)
    if callable(own):
        return {kind: describe(own(), seen)}
    if not hasattr(value, "__dict__"):
        return str(value)
    parts = {k: v for k, v in vars(value).items() if not (house and k.startswith("_") and k not in MATERIAL)}
    if kind == "LoadImage":  # without the readers that it has because their packages happen to be installed
        parts["readers"] = [] if parts["auto_select"] else parts["readers"][-1:]
    return {kind: describe(parts, seen)}


def _code(function: Any) -> list[Any]:
    """What a function does: its code, its defaults, what it encloses, and what it is bound to."""

    def parts(code: CodeType) -> list[Any]:
        return [code.co_code, code.co_names, [parts(c) if isinstance(c, CodeType) else c for c in code.co_consts]]

    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    return [*parts(function.__code__), function.__defaults__, function.__kwdefaults__, enclosed,
            getattr(function, "__self__", None)]  # fmt: skip


def _counts(value: Any) -> bool:
    """False for what says where, not what."""
    return (
        not isinstance(value, Path | logging.Logger) and type(value).__module__ + type(value).__name__ != "torchdevice"
    )


def difference(before: Mapping[str, Any], now: Mapping[str, Any], optional: Sequence[str] = ()) -> str | None:
    """The first key with another value before than now, as ``key BEFORE, now NOW``; None if there is none.

    A key that one side lacks counts as off there (None, False, 0, nothing): options are added that were not before.
    Of a path into a config (``a::b``), it counts as what the config itself says.

    Args:
        before, now: what something was, and would be, made of.
        optional: keys that may be None on either side.
    """
    before, now = json.loads(json.dumps([before, now], default=str))
    for key in {**now, **before}:
        was, value = before.get(key), now.get(key)
        if "::" not in key and not (key in before and key in now) and not was and not value:
            continue
        if (was != value or (key in before) != (key in now)) and not (key in optional and None in (was, value)):
            told = [
                AS_USUAL if "::" in key and key not in side else json.dumps(side.get(key)) for side in (before, now)
            ]
            return f"a different {key}" if max(map(len, told)) > 60 else f"{key} {told[0]}, now {told[1]}"
    return None


class Record:
    """``made_of.json``: what the content of a folder was made of, and whether it is all there.

    Args:
        folder: the folder.
        made_of: plain values; two records of one folder must agree.
        optional: keys that may be None on either side.
        usual: what None meant in records of earlier versions, by key.
    """

    def __init__(
        self,
        folder: str | Path,
        made_of: Mapping[str, Any],
        optional: Sequence[str] = (),
        usual: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.optional, self.usual = Path(folder), optional, usual or {}
        self.made_of = dict(made_of)
        self.older = False  # the record that was found says less than this one

    def check(self, begun: bool = True) -> bool:
        """True if the folder is complete.

        Args:
            begun: False: nothing of value is there yet, so that other values may replace those of the record.

        Raises:
            IchsegError: the folder was made of something else, the first difference is named; or before version 0.7.
        """
        path = self.folder / RECORD
        if not path.is_file():
            if any((self.folder / name).is_file() for name in EARLY_RECORDS):
                raise IchsegError(f"{self.folder}: written by ichseg before version 0.7; choose another output folder")
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            before, complete = dict(found["made_of"]), bool(found["complete"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise IchsegError(f"{path}: damaged; remove it or choose another output folder") from None
        before = {**before, **{key: value for key, value in self.usual.items() if before.get(key) is None}}
        self.older = any(before.get(key) is None and self.made_of.get(key) is not None for key in self.optional)
        if (complete or begun) and (what := difference(before, self.made_of, self.optional)):
            raise IchsegError(f"{self.folder}: made with {what}; choose another output folder")
        for key in self.optional:
            if self.made_of.get(key) is None and before.get(key) is not None:
                self.made_of[key] = before[key]
        return complete

    def once(self, make: Callable[[], None], before: Callable[[], None] = lambda: None) -> None:
        """Make what belongs into the folder, unless it is all there.

        Args:
            make: fills the folder.
            before: called first, such as to tell.

        Raises:
            IchsegError: as :meth:`check`; or a run of a bundle ended because some scans failed.
        """
        if self.check():
            return
        before()
        self.write()
        try:
            make()
        except SystemExit as stop:
            raise IchsegError(f"{self.folder}: some scans failed; see its results.csv") from stop
        self.write(complete=True)

    def write(self, complete: bool = False) -> None:
        """Write the record; call it before the first result is kept, and again when all of it is there."""
        content = {"made_of": self.made_of, "complete": complete}
        write_text(self.folder / RECORD, json.dumps(content, indent=1, default=str) + "\n")
