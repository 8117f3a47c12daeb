"""``_target_`` entries of a config: which code they name, and whether it takes what it is given."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ichseg.check.names import doubt_of_component, near, resolved

SPECIAL_KEYS = ("_target_", "_requires_", "_disabled_", "_desc_", "_mode_")
MODES = ("default", "callable", "debug")


def doubts_of_target(entry: Mapping[str, Any], allow: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Pairs of a key of the entry and what is wrong with it.

    Args:
        entry: the mapping with ``_target_``.
        allow: further dotted paths that may be named.
    """
    for key in entry:
        if key.startswith("_") and key not in SPECIAL_KEYS:
            yield key, f"unknown special key{near(key, SPECIAL_KEYS)}"
    target = entry["_target_"]
    doubt = doubt_of_target(target, allow)
    if doubt is not None:
        yield "_target_", doubt
        return
    if str(entry.get("_mode_", "default")) not in MODES[:2]:
        yield "_mode_", f"must be one of {', '.join(MODES[:2])} ('debug' would start a debugger)"
    yield from _arguments(resolved(target), target, entry)


def doubt_of_target(target: Any, allow: Collection[str] = ()) -> str | None:
    """Why a value may not stand under ``_target_``, or None."""
    if not isinstance(target, str):
        return "is not a string"
    if target.startswith("$"):
        return "is an expression; what it runs is unknown in advance"
    if target.startswith(("@", "%")):
        return "is a reference; what it runs is unknown in advance"
    return doubt_of_component(target, allow)


def _arguments(found: Any, target: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return
    given = [key for key in entry if not key.startswith("_")]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in given:
            if key not in names:
                yield key, f"unknown key of {target}{near(key, names)}"
    if str(entry.get("_mode_", "default")) == "default":
        for p in parameters:
            if p.default is p.empty and p.name in names and p.name not in given:
                yield p.name, f"missing; {target} requires it"
