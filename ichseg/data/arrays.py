"""Arrays kept in a file between runs, believed only if they were made of the same."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.io.atomic import atomic_path
from ichseg.provenance import value_hash


def write_arrays(
    file: str | Path, made_of: Any, about: Any, arrays: dict[str, np.ndarray], compress: bool = True
) -> None:
    """Write arrays as one ``.npz`` that is whole or not there.

    Args:
        file: the ``.npz``.
        made_of: what they were made of, plain values.
        about: anything JSON can hold.
        arrays: by name.
        compress: smaller, and slower.
    """
    header = np.array(json.dumps({"key": value_hash(made_of), "about": about}))
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        save: Any = np.savez_compressed if compress else np.savez
        save(stream, header=header, **arrays)


def read_arrays(file: str | Path, made_of: Any) -> tuple[Any, dict[str, np.ndarray]] | None:
    """What :func:`write_arrays` wrote, as ``about`` and arrays; None if absent, damaged, or of something else."""
    if not Path(file).is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as found:
            header = json.loads(str(found["header"]))
            if header["key"] != value_hash(made_of):
                return None
            return header["about"], {name: found[name] for name in found.files if name != "header"}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # damaged: made anew
