"""Weight files: a state dict that carries its settings. Only tensors are unpickled."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ichseg.errors import IchsegError
from ichseg.io import atomic_path

logger = logging.getLogger(__name__)
# Where the settings lie: in the metadata that every state dict of torch has, under a name that no module has.
SETTINGS = "ichseg settings"
ONLY_MEMBER = ("members.0.", "networks.0.")  # how the keys of an ensemble of one begin
Settings = TypeVar("Settings")
Network = TypeVar("Network", bound=nn.Module)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file written by ``torch.save`` with ``weights_only=True``.

    Raises:
        IchsegError: the file is absent, damaged, or holds more than tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise IchsegError(f"{path}: weight file not found")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise IchsegError(f"{path}: not a weight file, or it has pickled objects, which are never loaded") from None
    except (IndexError, AttributeError, TypeError, struct.error):  # what text makes of the unpickler
        raise IchsegError(f"{path}: not a weight file") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        why = " ".join(str(error).split())[:120]
        why = why if " " in why else f"{type(error).__name__} {why}".strip()  # a bare number or key tells nothing
        raise IchsegError(f"{path}: damaged weight file ({why})") from None
    if not isinstance(content, dict):
        raise IchsegError(f"{path}: expected a state dict, found {type(content).__name__}")
    return content


def load_weights(network: Network, path: str | Path | None) -> Network:
    """Load a state dict, or a checkpoint that holds one under ``model``, into ``network`` and return it.

    ``path=None`` leaves the network as it is: training configs use it for random weights. An ensemble of one, which
    is what training writes, loads into its only member as well, so that training can start from a finished model.

    Raises:
        IchsegError: the file cannot be read or belongs to another architecture.
    """
    if path is None:
        return network
    state = read_checkpoint(path)
    state = state.get("model", state)
    own = network.state_dict()
    state = of_only_member(state, own)
    lacking = [key for key in own if key not in state]
    foreign = [key for key in state if key not in own]
    differing = [key for key in own if key in state and getattr(state[key], "shape", None) != own[key].shape]
    if lacking or foreign or differing:
        example = (lacking or foreign or differing)[0]
        raise IchsegError(
            f"{path}: weights do not match {type(network).__name__}: {len(lacking)} keys are missing, "
            f"{len(foreign)} are unexpected, {len(differing)} differ in shape (first: {example})"
        )
    network.load_state_dict({key: without_subnormals(value) for key, value in state.items()})
    return network


def without_subnormals(value: torch.Tensor) -> torch.Tensor:
    """0 in place of what is too small for a normal number, as running variances of channels that never fire: Intel
    processors take a hundred times longer to multiply it."""
    if not value.is_floating_point():
        return value
    return torch.where(value.abs() < torch.finfo(torch.float32).tiny, 0, value)


def of_only_member(state: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an ensemble of one as that of its only member, if a network with the keys ``own`` is no ensemble."""
    for only in ONLY_MEMBER:
        if all(key.startswith(only) for key in state) and not any(key.startswith(only) for key in own):
            return {key.removeprefix(only): value for key, value in state.items()}
    return state


def save_weights(path: str | Path, state: Mapping[str, torch.Tensor], settings: Any) -> None:
    """Write a state dict with its settings, whole or not at all.

    The file is a plain state dict to whoever loads it: the settings are in its ``_metadata``, which torch itself writes
    and reads.

    Args:
        path: the file.
        state: of the network.
        settings: :class:`ichseg.networks.SegmenterSettings`, :class:`ichseg.networks.ClassifierSettings` or a mapping.
    """
    content = OrderedDict((key, value.detach().cpu()) for key, value in state.items())  # readable without a GPU
    values = settings if isinstance(settings, Mapping) else dataclasses.asdict(settings)
    content._metadata = {**getattr(state, "_metadata", {}), SETTINGS: {**values}}  # type: ignore[attr-defined]
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read_settings(path: str | Path, kind: type[Settings]) -> Settings:
    """The settings that a weight file carries.

    Args:
        path: the file.
        kind: dataclass of the settings.

    Raises:
        IchsegError: the file carries none, as those written before version 0.7, or others.
    """
    known = Path(path).stat() if Path(path).is_file() else None
    seen = () if known is None else (known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns)
    values = copy.deepcopy(_carried(str(path), seen))
    if values is None:
        raise IchsegError(
            f"{path}: this weight file carries no settings (size, window, threshold); if it was written before version "
            f"0.7, convert it: ichseg convert-weights {path} NEW.pt"
        )
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    if lacking := sorted(required - values.keys()):
        what = kind.__name__.removesuffix("Settings").lower()
        raise IchsegError(f"{path}: not the weights of a {what}: no {', '.join(lacking)} among its settings")
    if unknown := sorted(values.keys() - {field.name for field in fields}):
        raise IchsegError(
            f"{path}: unknown setting {', '.join(unknown)}; a later version of ichseg may have written it"
        )
    try:
        return kind(**values)
    except IchsegError as error:
        raise IchsegError(f"{path}: {error}") from None


@functools.lru_cache(maxsize=64)
def _carried(path: str, seen: tuple[int, ...]) -> dict[str, Any] | None:
    """The settings in a file; a run asks for them several times, and there is no reading them without the weights.

    Args:
        path: the file.
        seen: what changes when it is written.
    """
    settings: dict[str, Any] | None = getattr(read_checkpoint(path), "_metadata", {}).get(SETTINGS)
    return settings


def check_settings(settings: Any, **ranges: tuple[float, float]) -> None:
    """Every value of a dataclass of settings is of the type that is written there, and in its range.

    Args:
        settings: the dataclass.
        **ranges: name -> smallest and largest value.

    Raises:
        IchsegError: names the first that is not.
    """
    words = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}
    kinds: dict[str, Any] = {"bool": bool, "int": int, "float": int | float, "str": str}
    for field in dataclasses.fields(settings):
        value, kind = getattr(settings, field.name), str(field.type)
        fits = kind not in kinds or (isinstance(value, kinds[kind]) and (kind == "bool" or not isinstance(value, bool)))
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise IchsegError(f"{field.name} must be {words[kind]}, not {value}")
        least, most = ranges.get(field.name, (-math.inf, math.inf))
        if field.name in ranges and not least <= value <= most:
            limits = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
            raise IchsegError(f"{field.name} must be {limits}, not {value}")


def with_overrides(settings: Settings, overrides: Mapping[str, Any], source: str | Path) -> Settings:
    """Settings with some values replaced; None leaves one as it is. What is replaced is logged.

    Raises:
        IchsegError: the settings have no such value.
    """
    before = dataclasses.asdict(settings)  # type: ignore[call-overload]
    chosen = {key: value for key, value in overrides.items() if value is not None}
    for key, value in chosen.items():
        if key not in before:
            raise IchsegError(f"'{key}' is not a setting of {type(settings).__name__}; choose from {', '.join(before)}")
        if value != before[key]:
            logger.info("%s %s instead of %s, the value stored in %s", key, value, before[key], Path(source).name)
    return dataclasses.replace(settings, **chosen)  # type: ignore[type-var]
