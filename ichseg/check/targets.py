"""``_target_`` entries of a config: which code they name, and whether it takes what it is given."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

# Dotted paths that may be named. Bare names are MONAI's own components.
ALLOWED = ("ichseg", "ignite", "monai", "torch.device", "torch.nn", "torch.optim", "torch.utils.data",
           "torch.utils.tensorboard")  # fmt: skip
# ... but for what fetches, runs commands, or loads and writes things at places of its own.
REFUSED = (
    "ichseg.cli", "ichseg.launch.run_bundle", "ignite.distributed.launcher", "monai._extensions", "monai.apps",
    "monai.bundle", "monai.data.utils.pickle_operations", "monai.fl", "monai.utils.misc.run_cmd", "monai.utils.module",
    "torch.utils.data.datapipes",
)  # fmt: skip
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
            yield key, f"unknown special key{_near(key, SPECIAL_KEYS)}"
    target = entry["_target_"]
    if not isinstance(target, str):
        yield "_target_", "is not text"
        return
    if target.startswith("$"):
        yield "_target_", "is an expression; what it runs cannot be told before"
        return
    if target.startswith("@"):
        return
    own = target.split(".")[0] in {name.split(".")[0] for name in allow} and _below(target, allow)
    if "." in target and not own and (not _below(target, ALLOWED) or _below(target, REFUSED)):
        yield "_target_", f"'{target}' is not on the list of what a config may name (--allow adds to it)"
        return
    found = _resolved(target)
    if isinstance(found, str):
        yield "_target_", found
        return
    # A public alias of something that is refused is refused as well.
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if _below(home, REFUSED) or (not own and not _below(home, ALLOWED) and home != "."):
        yield "_target_", f"'{target}' is {home}, which is not on the list of what a config may name"
        return
    if str(entry.get("_mode_", "default")) not in MODES:
        yield "_mode_", f"must be one of {', '.join(MODES)}"
    yield from _arguments(found, target, entry)


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
                yield key, f"unknown key of {target}{_near(key, names)}"
    if str(entry.get("_mode_", "default")) == "default":
        for p in parameters:
            if p.default is p.empty and p.name in names and p.name not in given:
                yield p.name, f"{target} needs this key"


@functools.cache
def _components() -> Any:
    from monai.bundle.config_item import ComponentLocator

    return ComponentLocator()


@functools.cache
def _resolved(target: str) -> Any:
    """The object a target names, or what is wrong with it; only packages on the list are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "." not in target:
            module = _components().get_component_module_name(target)
            if module is None:
                return f"'{target}' is no component of MONAI"
            target = f"{module if isinstance(module, str) else module[0]}.{target}"
        parts = target.split(".")
        for count in range(len(parts) - 1, 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:count]))
            except ModuleNotFoundError:
                continue
            except Exception as error:  # a module that fails to import is a finding, whatever its reason
                return f"'{target}' cannot be imported ({type(error).__name__}: {error})"
            try:
                return functools.reduce(getattr, parts[count:], found)
            except AttributeError:
                named = [name for name in dir(found) if not inspect.ismodule(getattr(found, name))]
                return f"'{target}' does not exist{_near(parts[-1], named)}"
    return f"'{target}' does not exist: there is no package '{parts[0]}'"


def _below(target: str, paths: Collection[str]) -> bool:
    return any(target == path or target.startswith(f"{path}.") for path in paths)


def _near(key: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(key, list(names), 1)
    return f"; did you mean '{near[0]}'?" if near else ""
