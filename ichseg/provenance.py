"""Is this already made, of the same things? One answer for trainings, caches, experiments and folder runs.

What something was made of is a value of plain types (:func:`describe` makes one of transforms). Folders keep the value
itself (:class:`Record`), so that a difference can be named; caches keep its hash.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.io.atomic import write_text

BLOCK = 2**20
RECORD = "made_of.json"
# How something is computed, where, and what MONAI keeps besides: the result is the same.
IMMATERIAL = frozenset((
    "allow_missing_keys", "batch_size", "cache_dir", "device", "log_stats", "map_items", "meta_key_postfix",
    "meta_keys", "orig_meta_keys", "output_dir", "overrides", "post_func", "root", "training", "unpack_items",
    "workers",
))  # fmt: skip


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
        plain = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple)}
        plain.pop("training", None)
        found.update(repr((name, type(module).__name__, sorted(plain.items()))).encode())
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def describe(value: Any, _seen: set[int] | None = None) -> Any:
    """What an object of a config was built with, in plain types.

    An object's own ``described()`` decides; else its class and its public attributes are taken. Of networks the hash is
    taken. Paths, devices and what is in :data:`IMMATERIAL` are left out.
    """
    seen = set() if _seen is None else _seen
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, Mapping):
        return {str(k): describe(v, seen) for k, v in value.items() if k not in IMMATERIAL and _counts(v)}
    if isinstance(value, Sequence | set | frozenset):
        return [describe(v, seen) for v in value if _counts(v)]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if hasattr(value, "state_dict"):
        return {name: network_hash(value)}
    if isinstance(value, type) or not hasattr(value, "__dict__") or hasattr(value, "__code__"):
        return name
    if id(value) in seen:
        return {name: "as above"}
    seen.add(id(value))
    own = getattr(value, "described", None)
    parts = own() if callable(own) else {k: v for k, v in vars(value).items() if not k.startswith("_")}
    return {name: describe(parts, seen)}


def _counts(value: Any) -> bool:
    """False for what says where or by which means, not what."""
    module = type(value).__module__.split(".")[0]
    kinds = (enum.Enum, Mapping, Sequence)
    return not isinstance(value, Path) and (module in ("builtins", "ichseg", "monai") or isinstance(value, kinds))


def difference(before: Mapping[str, Any], now: Mapping[str, Any], optional: Sequence[str] = ()) -> str | None:
    """The first key of ``now`` that had another value before, as ``key BEFORE, now NOW``; None if there is none.

    Args:
        before, now: what something was, and would be, made of.
        optional: keys that may be None on either side.
    """
    before, now = json.loads(json.dumps([before, now], default=str))
    for key, value in now.items():
        was = before.get(key)
        if was != value and not (key in optional and None in (was, value)):
            told = [json.dumps(one) for one in (was, value)]
            return f"a different {key}" if max(map(len, told)) > 60 else f"{key} {told[0]}, now {told[1]}"
    return None


class Record:
    """``made_of.json``: what the content of a folder was made of, and whether it is all there.

    Args:
        folder: the folder.
        made_of: plain values; two records of one folder must agree.
        optional: keys that may be None on either side.
    """

    def __init__(self, folder: str | Path, made_of: Mapping[str, Any], optional: Sequence[str] = ()) -> None:
        self.folder, self.optional = Path(folder), optional
        self.made_of = dict(made_of)

    def check(self, begun: bool = True) -> bool:
        """True if the folder is complete.

        Args:
            begun: False: nothing of value is there yet, so that other values may replace those of the record.

        Raises:
            IchsegError: the folder was made of something else; the first difference is named.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            before, complete = found["made_of"], bool(found["complete"])
        except (ValueError, KeyError, TypeError):
            raise IchsegError(f"{path}: damaged; remove it or choose another output folder") from None
        if (complete or begun) and (what := difference(before, self.made_of, self.optional)):
            raise IchsegError(f"{self.folder}: made with {what}; choose another output folder")
        for key in self.optional:
            if self.made_of.get(key) is None:
                self.made_of[key] = before.get(key)
        return complete

    def write(self, complete: bool = False) -> None:
        """Write the record; call it before the first result is kept, and again when all of it is there."""
        content = {"made_of": self.made_of, "complete": complete}
        write_text(self.folder / RECORD, json.dumps(content, indent=1, default=str) + "\n")
