"""Values given for keys of a config: of the right kind, in range, and for something that is there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ichseg.defaults import DICOM_OBJECTS
from ichseg.errors import IchsegError

SIZE_STEP = 32  # what the networks halve


def object_kinds(name: str, value: str | Sequence[str] | None) -> list[str]:
    """Kinds of DICOM objects, of :data:`ichseg.defaults.DICOM_OBJECTS`, as text with commas or a list; ``none``: none.

    Args:
        name: what to call the value by.
        value: the one given.

    Raises:
        IchsegError: a kind is unknown.
    """
    given = value.split(",") if isinstance(value, str) else list(value or ())
    kinds = [kind.strip() for part in given for kind in part.split(",") if kind.strip()]
    if kinds == ["none"]:
        return []
    for kind in kinds:
        if kind not in DICOM_OBJECTS:
            raise IchsegError(f"{name}: '{kind}' is unknown; choose from {', '.join(DICOM_OBJECTS)}, or none")
    return kinds


def check_kind(name: str, default: Any, value: Any) -> None:
    """A value for a key whose config says true or false is one of these.

    Raises:
        IchsegError: it is not.
    """
    if isinstance(value, str) and value[:1] in ("@", "$", "%"):
        return
    if isinstance(default, bool) and not isinstance(value, bool):
        hint = ""
        if isinstance(value, str) and value.lower() in ("true", "false"):  # MONAI's command line makes text of these
            hint = f" as text; write {value.capitalize()}, with a capital"
        raise IchsegError(f"{name}: expected true or false, not '{value}'{hint}")


def check_value(name: str, default: Any, value: Any) -> None:
    """A value given for a key of a config is of the kind of the config's own.

    Args:
        name: what to call it by.
        default: the config's value; None, text, lists and dictionaries allow any other.
        value: the one given.

    Raises:
        IchsegError: it is not, or it is text that MONAI would change.
    """
    if isinstance(value, str) and value[:1] in ("@", "$", "%"):
        return
    check_kind(name, default, value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int | float) and not isinstance(default, bool) and not number:
        raise IchsegError(f"{name}: expected a number, not '{value}'")
    if isinstance(value, str):
        check_text(name, value)


def check_text(name: str, text: str) -> None:
    """Text that MONAI leaves as it is, or an expression.

    Raises:
        IchsegError: MONAI would change it.
    """
    if text[:1] not in ("@", "$", "%") and "#" in text:
        raise IchsegError(f"{name}: MONAI reads the '#' of '{text}' as '::'; rename it or use an option of 'ichseg'")


def check_numbers(values: Mapping[str, Any]) -> None:
    """Size, epochs, batch size and workers are what training can take.

    Raises:
        IchsegError: names the one that is not.
    """
    size = values.get("size")
    if isinstance(size, int) and (size <= 0 or size % SIZE_STEP):
        raise IchsegError(f"size {size} must be a multiple of {SIZE_STEP}")
    for key, least in (("epochs", 1), ("batch_size", 1), ("num_workers", 0), ("workers", 1)):
        if isinstance(value := values.get(key), int | float) and value < least:
            raise IchsegError(f"{key} must be at least {least}, not {value}")


def check_nested(name: str, key: str, content: Mapping[str, Any], value: Any) -> None:
    """A nested key such as ``postprocessing::transforms::4::threshold`` leads somewhere that takes a value.

    Args:
        name: what to call it by.
        key: the key.
        content: the config.
        value: the one given.

    Raises:
        IchsegError: a part of it is not there, or what the value is for does not take it.
    """
    from ichseg.check.names import near
    from ichseg.check.targets import doubts_of_target

    *path, last = re.split("::|#", key)
    inner: Any = content
    for part in path:
        if isinstance(inner, Mapping) and part in inner:
            inner = inner[part]
        elif isinstance(inner, list) and part.isdigit() and int(part) < len(inner):
            inner = inner[int(part)]
        else:
            there = f"0 to {len(inner) - 1}" if isinstance(inner, list) else ", ".join(inner) if inner else "nothing"
            hint = near(part, list(inner)) if isinstance(inner, Mapping) else ""
            raise IchsegError(f"{name}: there is no '{part}' in the config{hint} (available: {there})")
    if isinstance(inner, list) and not (last.isdigit() and int(last) < len(inner)):
        raise IchsegError(f"{name}: there is no '{last}' in the config (available: 0 to {len(inner) - 1})")
    if isinstance(inner, Mapping) and isinstance(inner.get("_target_"), str):
        for own, doubt in doubts_of_target({**inner, last: value}):
            if own == last:
                raise IchsegError(f"{name}: {doubt}")
    elif isinstance(inner, Mapping) and last not in inner:
        raise IchsegError(f"{name}: there is no '{last}' in the config{near(last, list(inner))}")
