"""One config file of a bundle: targets, expressions, references, files."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ichseg.check.expressions import MACRO, REFERENCE, doubts_of_expression, imported_names
from ichseg.check.findings import Finding
from ichseg.check.targets import doubts_of_target

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
    path: Path, content: Mapping[str, Any], siblings: Collection[Mapping[str, Any]] = (), allow: Collection[str] = ()
) -> Iterator[Finding]:
    """Everything doubtful about a config.

    Args:
        path: the file.
        content: of the file.
        siblings: configs beside it, over which this one may be laid: references may point there.
        allow: further dotted paths that ``_target_`` may name.
    """
    names = {name for one in (content, *siblings) for entry in _as_list(one.get("imports"))
             if isinstance(entry, str) for name in imported_names(entry)}  # fmt: skip
    for key, value in _walk(content):
        if isinstance(value, Mapping) and "_target_" in value:
            yield from (Finding(path, _join(key, part), doubt) for part, doubt in doubts_of_target(value, allow))
        if isinstance(value, Mapping) and "_target_" not in value:
            for part in value:
                if isinstance(part, str) and part.startswith("_") and part.endswith("_") and len(part) > 2:
                    yield Finding(path, _join(key, part), "a special key without '_target_' beside it")
        if isinstance(value, str):
            yield from _text(path, key, value, names, (content, *siblings))


def _text(
    path: Path, key: str, value: str, names: Collection[str], configs: Collection[Mapping[str, Any]]
) -> Iterator[Finding]:
    if value.startswith("$"):
        yield from (Finding(path, key, f"expression {doubt}") for doubt in doubts_of_expression(value, names))
        if (named := BUNDLE_FILE.fullmatch(value)) and not _root(path).joinpath(named["file"]).is_file():
            yield Finding(path, key, f"file not found: {named['file']} of the bundle")
    if value.startswith("%"):
        yield from _macro(path, key, value)
    if value.startswith(("$", "@")):
        for reference in REFERENCE.findall(value):
            parts = re.split("::|#", reference.removeprefix("@"))
            if parts[0] and not any(_reaches(config, parts) for config in configs):
                yield Finding(path, key, f"unknown key: {reference} is in no config here")


def _macro(path: Path, key: str, value: str) -> Iterator[Finding]:
    file = re.split("::|#", value.removeprefix("%"))[0]
    if not file:
        return
    if not MACRO.fullmatch(value) or Path(file).is_absolute() or ".." in Path(file).parts:
        yield Finding(path, key, f"takes text from outside the bundle: {file}")
    elif not any((folder / file).is_file() for folder in (path.parent, path.parent.parent)):
        yield Finding(path, key, f"file not found: {file}")


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
