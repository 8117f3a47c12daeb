"""Weight files and arrays: what they would run or hold, without running it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from ichseg.errors import IchsegError

UNPACKED_RATIO = 8  # torch stores tensors unpacked: more than this is not a weight file


def doubts_of_weights(path: str | Path) -> list[str]:
    """One short sentence per reason not to load a file written by ``torch.save``; torch itself is asked.

    Raises:
        IchsegError: the file cannot be opened.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    from ichseg.networks.weights import read_checkpoint

    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            if sum(member.file_size for member in members) > UNPACKED_RATIO * path.stat().st_size + 2**20:
                return ["decompresses to many times its size"]
            if any("/code/" in f"/{member.filename}" for member in members):
                return ["TorchScript: contains code, which is not checked"]
            if unsafe := get_unsafe_globals_in_checkpoint(str(path)):
                return [f"contains a pickled object: {name}" for name in unsafe]
    except OSError as error:
        raise IchsegError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        return [f"damaged archive ({' '.join(str(error).split())[:120]})"]
    try:
        read_checkpoint(path)
    except IchsegError as error:
        return [str(error).removeprefix(f"{path}: ")]
    return []


def doubts_of_arrays(path: Path) -> list[str]:
    """One short sentence per reason not to load a file of NumPy arrays, or a pickle."""
    import numpy as np

    if path.suffix.lower() not in (".npy", ".npz"):
        return ["a pickle file: loading it can run code"]
    try:
        found = np.load(path, allow_pickle=False)
        for name in getattr(found, "files", ()):
            found[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return [f"cannot be loaded without running pickled objects ({' '.join(str(error).split())[:80]})"]
    return []
