"""Arrays kept in a file between runs, believed only if they were made of the same."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.io.atomic import atomic_path


def write_arrays(file: str | Path, key: str, about: Any, arrays: dict[str, np.ndarray], compress: bool = True) -> None:
    """Write arrays as one ``.npz`` that is whole or not there.

    Args:
        file: the ``.npz``.
        key: what they were made of, see :func:`ichseg.io.value_hash`.
        about: anything JSON can hold.
        arrays: by name.
        compress: smaller, and slower.
    """
    header = np.array(json.dumps({"key": key, "about": about}))
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        save: Any = np.savez_compressed if compress else np.savez
        save(stream, header=header, **arrays)


def read_arrays(file: str | Path, key: str) -> tuple[Any, dict[str, np.ndarray]] | None:
    """What :func:`write_arrays` wrote, as ``about`` and arrays; None if it is not there, damaged, or of another key."""
    if not Path(file).is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as found:
            header = json.loads(str(found["header"]))
            if header["key"] != key:
                return None
            return header["about"], {name: found[name] for name in found.files if name != "header"}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # damaged: made anew
