"""One config file of a bundle: targets, expressions, references, files."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ichseg.check.expressions import (
    HARMFUL_ARGUMENTS,
    IMPORTS,
    PRETRAINED,
    doubts_of_expression,
    imported_names,
    references_of,
)
from ichseg.check.findings import Finding
from ichseg.check.targets import doubt_of_target, doubts_of_target

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")
# MONAI puts keys into the Python that it evaluates.
PLAIN_KEY = re.compile(r"\+?[\w .,/:#-]+")

# "$@bundle_root + '/models/model.pt'": a file of the bundle that has to be there.
BUNDLE_FILE = re.compile(r"\$\s*@bundle_root\s*\+\s*(['\"])/?(?P<file>[^'\"]+\.(?:pt|pth|ts|onnx|json|ya?ml|csv))\1\s*")


def read_config(path: Path) -> tuple[Any, list[Finding]]:
    """The content of a YAML or JSON file, or what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        return (json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)), []
    except (yaml.YAMLError, ValueError) as error:
        return None, [Finding(path, "", f"cannot be read ({' '.join(str(error).split())[:200]})")]


def check_config(
    path: Path,
    content: Any,
    siblings: Collection[Mapping[str, Any]] = (),
    allow: Collection[str] = (),
    references: bool = True,
) -> Iterator[Finding]:
    """Everything doubtful about a config.

    Args:
        path: the file.
        content: of the file.
        siblings: configs beside it, over which this one may be laid: references may point there.
        allow: further dotted paths that ``_target_`` may name.
        references: tell those that lead nowhere.
    """
    configs = [one for one in (content, *siblings) if isinstance(one, Mapping)]
    names: dict[str, set[str]] = {}
    for text in (text for one in configs for text in _as_list(one.get(IMPORTS)) if isinstance(text, str)):
        for name, meant in imported_names(text).items():
            names.setdefault(name, set()).update(meant)
    for key, value in _walk(content):
        if isinstance(value, Mapping):
            yield from _mapping(path, key, value, allow)
        if isinstance(value, str):
            yield from _text(path, key, value, names)
        if references and isinstance(value, str) and value.startswith(("$", "@")):
            for name in references_of(value, key):
                parts = name.split("::")
                if parts[0] and not any(_reaches(config, parts) for config in configs):
                    yield Finding(path, key, f"unknown key: @{name} is not in this config or those next to it")


def _mapping(path: Path, key: str, value: Mapping[str, Any], allow: Collection[str]) -> Iterator[Finding]:
    if "_target_" in value:
        yield from (Finding(path, _join(key, part), doubt) for part, doubt in doubts_of_target(value, allow))
        if value.get(PRETRAINED) not in (None, False):
            yield Finding(path, _join(key, PRETRAINED), "lets a network fetch weights")
    for part, inner in value.items():
        here = _join(key, str(part))
        if not isinstance(part, str):
            continue
        if PLAIN_KEY.fullmatch(part) is None:
            yield Finding(path, here, "key contains characters that are not allowed")
        last = re.split("::|#", part)[-1].lstrip("+")
        if last == "_target_" and part != "_target_":  # a key of several parts replaces what stands elsewhere
            doubt = doubt_of_target(inner, allow)
            yield from () if doubt is None else [Finding(path, here, doubt)]
        elif "_target_" not in value and last != "_target_" and re.fullmatch("_.+_", part) and part != "_meta_":
            yield Finding(path, here, "special key without '_target_' in the same mapping")
        if last in HARMFUL_ARGUMENTS and inner is not HARMFUL_ARGUMENTS[last]:
            yield Finding(path, here, "lets a loader run code from the file it reads")


def _text(path: Path, key: str, value: str, names: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    if value.startswith("$"):
        yield from (Finding(path, key, f"expression {doubt}") for doubt in doubts_of_expression(value, key, names))
        if (named := BUNDLE_FILE.fullmatch(value)) and not _root(path).joinpath(named["file"]).is_file():
            yield Finding(path, key, f"file not found in the bundle: {named['file']}")
    if value.startswith("@") and any(name.split("::")[0] == IMPORTS for name in references_of(value, key)):
        yield Finding(path, key, "refers to an import, which exposes a module")
    if value.startswith("%"):
        yield from _macro(path, key, value)


def _macro(path: Path, key: str, value: str) -> Iterator[Finding]:
    """A piece of another file: of one in the bundle, as all of these are examined."""
    file, *parts = re.split("::|#", value.removeprefix("%"))
    if IMPORTS in parts:
        yield Finding(path, key, "copies an import, which exposes a module")
    if not file:
        return
    root = _root(path).resolve()
    places = [(folder / file).resolve() for folder in (path.parent, _root(path))]
    if Path(file).is_absolute() or any(root not in place.parents for place in places):
        yield Finding(path, key, f"includes a file from outside the bundle: {file}")
    elif Path(file).suffix.lower() not in CONFIG_SUFFIXES:
        yield Finding(path, key, f"includes a file that is not a config: {file}")
    elif not any(place.is_file() for place in places):
        yield Finding(path, key, f"file not found: {file}")


def macro_files(path: Path, content: Any) -> Iterator[Path]:
    """The files of the bundle that a config takes pieces from."""
    for _, value in _walk(content):
        if isinstance(value, str) and value.startswith("%"):
            file = re.split("::|#", value.removeprefix("%"))[0]
            yield from ((folder / file).resolve() for folder in (path.parent, _root(path)) if (folder / file).is_file())


def _root(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "configs" else path.parent


def _reaches(config: Any, parts: list[str]) -> bool:
    """True if a config has the place; what lies inside an object it builds cannot be told and counts."""
    for part in parts:
        if isinstance(config, Mapping):
            if part not in config and "::".join(parts) not in config:
                return False
            config = config.get(part)
        elif isinstance(config, list):
            if not part.isdigit() or int(part) >= len(config):
                return False
            config = config[int(part)]
        else:
            return isinstance(config, str)  # a reference or an expression that gives something with parts
    return True


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    yield key, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _walk(inner, _join(key, str(name)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk(inner, _join(key, str(number)))


def _join(key: str, part: str) -> str:
    return f"{key}::{part}" if key else part


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
