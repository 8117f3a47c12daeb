"""Which kind of thing a path is, and the checks for it."""

from __future__ import annotations

import configparser
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ichseg.check.config import CONFIG_SUFFIXES, check_config, macro_files, read_config
from ichseg.check.findings import Finding
from ichseg.check.pickles import doubts_of_arrays, doubts_of_weights
from ichseg.errors import IchsegError

WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
METADATA_KEYS = ("version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
                 "copyright", "network_data_format")  # fmt: skip
DATALIST_TOP = {"training", "validation", "test", "name", "description", "license", "source", "numTraining", "folds"}
DATALIST_KEYS = frozenset((
    "case", "image", "label", "label_slices", "slice_labels", "fold", "patient", "spacing_known", "scan", "source",
))  # fmt: skip
HANDLERS = re.compile(r"(logging\.)?(handlers\.)?(Stream|File|RotatingFile|TimedRotatingFile|Null)Handler")
HANDLER_ARGUMENTS = re.compile(r"\(\s*((sys\.(stdout|stderr)|'[\w./ -]*'|\"[\w./ -]*\"|\d+)\s*,?\s*)*\)")


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
        return [Finding(path, "", "TorchScript: it holds code, which is not examined")]
    if path.suffix.lower() not in CONFIG_SUFFIXES:
        raise IchsegError(f"{path}: neither a bundle folder nor a config ({', '.join(CONFIG_SUFFIXES)}) nor weights "
                          f"({', '.join(WEIGHT_SUFFIXES)})")  # fmt: skip
    return list(dict.fromkeys(_config(path, allow, set())))


def _config(path: Path, allow: Collection[str], seen: set[Path]) -> Iterator[Finding]:
    """A file of keys: MONAI evaluates what it takes from one, whatever the file is called or looks like."""
    seen.add(path.resolve())
    content, found = read_config(path)
    yield from found
    if not found and not isinstance(content, Mapping):
        yield Finding(path, "", "holds no keys")
    if not isinstance(content, Mapping):
        return
    is_datalist = isinstance(content.get("training"), list) and set(content) <= DATALIST_TOP
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
        raise IchsegError(f"{folder}: no bundle: it has no folder 'configs'")
    for needed in ("LICENSE", "configs/metadata.json"):
        if not (folder / needed).is_file():
            yield Finding(folder / needed, "", "file not found; a bundle needs it")
    for path in (*_configs(configs), *(p for p in [configs / "metadata.json"] if p.is_file())):
        yield from check_path(path, allow)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        suffix = path.suffix.lower()
        if suffix in (*WEIGHT_SUFFIXES, ".ts"):
            yield from check_path(path)
        elif suffix in (".conf", ".ini"):
            yield from _logging(path)
        elif suffix in (".npy", ".npz", ".pkl", ".pickle"):
            yield from (Finding(path, "", doubt) for doubt in doubts_of_arrays(path))
        elif suffix in (".py", ".pyc", ".so", ".dll", ".pyd"):
            yield Finding(path, "", "code of the bundle's own, which is not examined")
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
        yield Finding(path, "changelog", f"says nothing of version {content.get('version')}")


def _datalist(path: Path, content: Mapping[str, Any]) -> Iterator[Finding]:
    names: dict[str, int] = {}
    for number, entry in enumerate(content["training"]):
        key = f"training::{number}"
        if not isinstance(entry, Mapping):
            yield Finding(path, key, "is no object with keys")
            continue
        for needed in ("case", "image"):
            if not isinstance(entry.get(needed), str):
                yield Finding(path, f"{key}::{needed}", "missing or not text")
        for name in entry:
            if name not in DATALIST_KEYS:
                yield Finding(path, f"{key}::{name}", "unknown key")
        labels = entry.get("slice_labels", [0])
        if not isinstance(labels, list) or not labels or any(value not in (0, 1) for value in labels):
            yield Finding(path, f"{key}::slice_labels", "must hold one 0 or 1 per slice")
        for name in ("image", "label"):
            if isinstance(entry.get(name), str) and not (path.parent / entry[name]).is_file():
                yield Finding(path, f"{key}::{name}", f"file not found: {entry[name]}")
        if isinstance(entry.get("image"), str):
            if entry["image"] in names:
                yield Finding(path, f"{key}::image", f"the same as training::{names[entry['image']]}")
            names.setdefault(entry["image"], number)


def _logging(path: Path) -> Iterator[Finding]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (configparser.Error, ValueError) as error:
        yield Finding(path, "", f"cannot be read ({' '.join(str(error).split())[:120]})")
        return
    for section in parser.sections():
        kind, arguments = parser.get(section, "class", fallback=""), parser.get(section, "args", fallback="()")
        if kind and not (
            HANDLERS.fullmatch(kind) or (section.startswith("formatter_") and kind == "logging.Formatter")
        ):
            yield Finding(path, f"{section}::class", f"'{kind}' is no handler of Python's logging")
        if not HANDLER_ARGUMENTS.fullmatch(arguments):
            yield Finding(path, f"{section}::args", "is evaluated, and is more than streams, texts and numbers")
        elif any(
            Path(text).is_absolute() or ".." in Path(text).parts for text in re.findall(r"['\"](.*?)['\"]", arguments)
        ):
            yield Finding(path, f"{section}::args", "writes to a file elsewhere")
        if parser.has_option(section, "kwargs"):
            yield Finding(path, f"{section}::kwargs", "is evaluated")
