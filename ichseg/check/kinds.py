"""Which kind of thing a path is, and the checks for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ichseg.check.config import CONFIG_SUFFIXES, check_config, macro_files, read_config
from ichseg.check.findings import Finding
from ichseg.check.weight_files import doubts_of_arrays, doubts_of_weights
from ichseg.data.datalist import FILES, datalist_problems
from ichseg.errors import IchsegError, ScanError
from ichseg.io import read_header, slice_axis
from ichseg.io.geometry import believed_affine

WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
METADATA_KEYS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
                 "copyright", "network_data_format")  # fmt: skip


def check_path(path: str | Path, allow: Collection[str] = ()) -> list[Finding]:
    """Examine a bundle folder, a config, a datalist or a weight file; nothing of it is run.

    Args:
        path: of any of these.
        allow: dotted paths that ``_target_`` may name besides MONAI's, ignite's, ichseg's and torch's.

    Returns:
        what was found, one per key.

    Raises:
        IchsegError: the path does not exist, or is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return list(dict.fromkeys(_bundle(path, allow)))
    if not path.is_file():
        raise IchsegError(f"{path}: no such file or folder")
    if path.suffix.lower() in WEIGHT_SUFFIXES:
        return [Finding(path, "", doubt) for doubt in doubts_of_weights(path)]
    if path.suffix.lower() == ".ts":
        return [Finding(path, "", "TorchScript: contains code, which is not checked")]
    if path.suffix.lower() not in CONFIG_SUFFIXES:
        raise IchsegError(f"{path}: not a bundle folder, a config ({', '.join(CONFIG_SUFFIXES)}) or a weight file "
                          f"({', '.join(WEIGHT_SUFFIXES)})")  # fmt: skip
    return list(dict.fromkeys(_config(path, allow, set())))


def _config(path: Path, allow: Collection[str], seen: set[Path]) -> Iterator[Finding]:
    """A file of keys: MONAI evaluates what it takes from one, whatever the file is called or looks like."""
    seen.add(path.resolve())
    content, found = read_config(path)
    yield from found
    if not found and not isinstance(content, Mapping):
        yield Finding(path, "", "contains no keys")
    if not isinstance(content, Mapping):
        return
    is_datalist = _is_datalist(path, content)
    if path.name == "metadata.json":
        yield from _metadata(path, content)
    elif is_datalist:
        yield from _datalist(path, content)
    beside = [other for other in _configs(path.parent) if other != path] if path.parent.name == "configs" else []
    contents = [one for one in (read_config(other)[0] for other in beside) if isinstance(one, Mapping)]
    plain = path.name == "metadata.json" or is_datalist  # nothing there refers to a config
    yield from check_config(path, content, contents, allow, references=not plain)
    for file in macro_files(path, content):
        if file not in seen and file.suffix.lower() in CONFIG_SUFFIXES:
            yield from _config(file, allow, seen)


def _bundle(folder: Path, allow: Collection[str]) -> Iterator[Finding]:
    configs = folder / "configs"
    if not configs.is_dir():
        raise IchsegError(f"{folder}: not a bundle: it has no folder 'configs'")
    for needed in ("LICENSE", "configs/metadata.json"):
        if not (folder / needed).is_file():
            yield Finding(folder / needed, "", "file not found; a bundle requires it")
    for path in (*_configs(configs), *(p for p in [configs / "metadata.json"] if p.is_file())):
        yield from check_path(path, allow)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        suffix = path.suffix.lower()
        if suffix in (*WEIGHT_SUFFIXES, ".ts"):
            yield from check_path(path)
        elif suffix in (".npy", ".npz", ".pkl", ".pickle"):
            yield from (Finding(path, "", doubt) for doubt in doubts_of_arrays(path))
        elif suffix in (".py", ".pyc", ".so", ".dll", ".pyd"):
            yield Finding(path, "", "code in the bundle, which is not checked")
        elif suffix in CONFIG_SUFFIXES and path.parent != configs:
            yield from _config(path, allow, set())


def _configs(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in CONFIG_SUFFIXES and p.name != "metadata.json")


def _metadata(path: Path, content: Mapping[str, Any]) -> Iterator[Finding]:
    for key in METADATA_KEYS:
        if key not in content:
            yield Finding(path, key, "missing")
    if "required_packages_version" not in content and "optional_packages_version" not in content:
        yield Finding(path, "required_packages_version", "missing")
    changes = content.get("changelog")
    if isinstance(changes, Mapping) and content.get("version") not in changes:
        yield Finding(path, "changelog", f"has no entry for version {content.get('version')}")


def _is_datalist(path: Path, content: Mapping[str, Any]) -> bool:
    """Also one whose key 'training' is mistyped: any list of scans in a JSON file outside a bundle's configs."""
    if "_target_" in str(content):
        return False
    if path.suffix.lower() != ".json" or path.parent.name == "configs":
        return isinstance(content.get("training"), list)
    lists = [value for value in content.values() if isinstance(value, list) and value]
    scans = any(isinstance(value[0], Mapping) and value[0].keys() & {"case", *FILES} for value in lists)
    return scans or "training" in content


def _datalist(path: Path, content: Mapping[str, Any]) -> Iterator[Finding]:
    """By the schema that ``load_datalist`` follows, and by the files it names."""
    for index, key, message in datalist_problems(content):
        parts = [str(index), key] if index is not None else []
        yield Finding(path, "::".join(["training", *(part for part in parts if part)]), message)
    scans = content.get("training")
    for index, entry in enumerate(scans if isinstance(scans, list) else ()):
        for key in FILES:
            named = entry.get(key) if isinstance(entry, Mapping) else None
            if isinstance(named, str) and not (path.parent / named).is_file():
                yield Finding(path, f"training::{index}::{key}", f"file not found: {named}")
            elif isinstance(named, str):
                yield from _slices(path, index, key, entry)


def _slices(path: Path, index: int, key: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
    """The header of a file against the labels of its slices."""
    try:
        header = read_header(path.parent / entry[key])
        shape = [int(n) for n in header.get_data_shape()][:3]
        count = shape[slice_axis(believed_affine(header)[0])]
    except (ScanError, ValueError, IndexError) as error:
        yield Finding(path, f"training::{index}::{key}", str(error))
        return
    labels, annotated = entry.get("slice_labels"), entry.get("label_slices")
    if key == "image" and isinstance(labels, list) and len(labels) != count:
        yield Finding(
            path, f"training::{index}::slice_labels", f"{len(labels)} labels, but {entry[key]} has {count} slices"
        )
    if isinstance(annotated, list) and any(isinstance(n, int) and n >= count for n in annotated):
        yield Finding(path, f"training::{index}::label_slices", f"a slice index beyond the {count} of {entry[key]}")
