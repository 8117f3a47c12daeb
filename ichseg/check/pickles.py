"""Weight files: which Python objects their pickles name, without loading them."""

from __future__ import annotations

import contextlib
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ichseg.errors import IchsegError

# What a file of tensors and plain containers names.
HARMLESS = frozenset((
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.Size", "torch.device",
    "torch.serialization._get_layout", "torch._tensor._rebuild_from_type_v2", "torch.Tensor",
    "torch.nn.parameter.Parameter", "torch.storage.UntypedStorage", "torch.storage.TypedStorage",
))  # fmt: skip
DTYPES = frozenset((
    "bfloat16", "bool", "complex128", "complex64", "float16", "float32", "float64", "int16", "int32", "int64",
    "int8", "uint8",
))  # fmt: skip
ARRAY_HEADERS: dict[Any, Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
UNPACKED_RATIO = 8  # torch stores tensors unpacked: more than this is no weight file


def doubts_of_weights(path: str | Path) -> list[str]:
    """One short sentence per reason not to load a file written by ``torch.save``.

    Raises:
        IchsegError: the file cannot be opened.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                found = list(_of_archive(path))
            elif _begins_like_an_archive(stream):
                found = ["damaged archive (truncated?)"]
            else:
                stream.seek(0)
                found = list(_of_pickle(stream, path.stat().st_size))
    except OSError as error:
        raise IchsegError(f"{path}: cannot be read ({error.strerror or error})") from None
    return list(dict.fromkeys(found)) or _loaded(path)


def doubts_of_arrays(path: Path) -> list[str]:
    """One short sentence per reason not to load a file of NumPy arrays or a pickle."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return ["a pickle: loading it runs it"]
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else contextlib.nullcontext() as archive:
            members = [path] if archive is None else [zipfile.Path(archive, name) for name in archive.namelist()]
            for member in members:
                with member.open("rb") as stream:
                    reader = ARRAY_HEADERS.get(np.lib.format.read_magic(stream))
                    if reader is None:
                        return ["NumPy arrays of a version that is not examined"]
                    if reader(stream)[2].hasobject:
                        return ["holds pickled objects: loading it may run them"]
    except ValueError:
        return ["holds something that is no NumPy array"]
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        return [f"cannot be read ({error})"]
    return []


def _of_archive(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > UNPACKED_RATIO * path.stat().st_size + 2**20:
                yield "unpacks to many times its size"
                return
            if any("/code/" in f"/{member.filename}" for member in members):
                yield "TorchScript: it holds code, which is not examined"
            pickles = [member for member in members if member.filename.endswith(".pkl")]
            if not pickles:
                yield "not a weight file: an archive without data.pkl"
            for member in pickles:
                with archive.open(member) as stream:
                    yield from _of_pickle(stream, member.file_size)  # type: ignore[arg-type]
    # what zipfile raises of damaged, unknown-compressed and encrypted (RuntimeError) archives
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield f"damaged archive ({error})"


def _begins_like_an_archive(stream: BinaryIO) -> bool:
    stream.seek(0)
    return stream.read(4) == b"PK\x03\x04"


def _of_pickle(stream: BinaryIO, size: int) -> Iterator[str]:
    """Objects named in the pickles of a stream; files before torch 1.6 hold several, one after the other."""
    first = True
    while True:
        texts: list[str] = []
        memo: dict[Any, str] = {}
        try:
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name in ("GLOBAL", "INST"):
                    yield from _named(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    yield from _named(".".join(texts[-2:]) if len(texts) > 1 else "an object of unknown name")
                elif operation.name in ("EXT1", "EXT2", "EXT4"):
                    yield "names a pickled object by number"
                elif isinstance(argument, str):
                    texts.append(argument)
                elif operation.name == "MEMOIZE" and texts:
                    memo[len(memo)] = texts[-1]
                elif operation.name in ("BINPUT", "LONG_BINPUT", "PUT") and texts:
                    memo[argument] = texts[-1]
                elif operation.name in ("BINGET", "LONG_BINGET", "GET"):
                    texts.append(memo.get(argument, "an object of unknown name"))
        except (ValueError, UnicodeDecodeError, IndexError, EOFError, OverflowError, MemoryError) as error:
            if first:
                yield f"not a weight file ({' '.join(str(error).split())[:80]})"
            return
        first = False
        if stream.tell() >= size:
            return


def _named(name: str) -> Iterator[str]:
    module, _, last = name.rpartition(".")
    if name in HARMLESS or (module == "torch" and (last in DTYPES or last.endswith("Storage"))):
        return
    yield f"holds a pickled object: {name}"


def _loaded(path: Path) -> list[str]:
    """What torch itself says against it, with ``weights_only=True``."""
    from ichseg.networks.weights import read_checkpoint

    try:
        read_checkpoint(path)
    except IchsegError as error:
        return [str(error).removeprefix(f"{path}: ")]
    return []
