"""Start a bundle's config through monai.bundle, as the command line does."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.resources import bundle_folder

SIZE_STEP = 32  # what the networks halve


def run_bundle(bundle: str, config: str, overrides: dict[str, Any], settings: Sequence[str]) -> None:
    """Start a bundle's config through monai.bundle.

    Args:
        bundle, config: which.
        overrides: values in place of the config's; None leaves it. Paths are ``Path``: of text, MONAI takes ``#`` for
            a separator of keys.
        settings: ``KEY=VALUE`` of the command line.
    """
    root = bundle_folder(bundle)
    file = root / "configs" / config
    given = {"bundle_root": str(root), **{k: v for k, v in overrides.items() if v is not None}}
    given |= parse_settings(bundle, config, settings)
    check_numbers(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import run

        for name in list(logging.root.manager.loggerDict):
            if name.split(".")[0] in ("monai", "ignite"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        run(
            config_file=str(file),
            meta_file=str(root / "configs" / "metadata.json"),
            logging_file=False,  # type: ignore[arg-type]  # "" and None mean the default file
            **given,
        )


def check_numbers(values: dict[str, Any]) -> None:
    """Size, epochs, batch size and workers are what training can take.

    Raises:
        IchsegError: names the one that is not.
    """
    size = values.get("size")
    if size is not None and (size <= 0 or size % SIZE_STEP):
        raise IchsegError(f"size {size} must be a multiple of {SIZE_STEP}")
    for key in ("epochs", "batch_size"):
        if values.get(key) is not None and values[key] < 1:
            raise IchsegError(f"{key} must be at least 1, not {values[key]}")
    if (workers := values.get("num_workers")) is not None and workers < 0:
        raise IchsegError(f"num_workers must be at least 0, not {workers}")


def parse_settings(bundle: str, config: str, settings: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` of the command line as values of a bundle's config.

    Raises:
        IchsegError: a key is not in the config, or the value is none for it.
    """
    import yaml

    file = bundle_folder(bundle) / "configs" / config
    known = yaml.safe_load(file.read_text(encoding="utf-8"))
    given = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key.split("::")[0] not in known:
            raise IchsegError(f"--set {setting}: '{key}' is not a key of {file}; write KEY=VALUE with a key from there")
        if not equals:
            raise IchsegError(f"--set {setting}: '=VALUE' is missing")
        try:
            given[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise IchsegError(f"--set {setting}: '{text}' is not a YAML value") from None
        check_value(f"--set {key}", known.get(key), given[key])
    return given


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
    if isinstance(default, bool) and not isinstance(value, bool):
        raise IchsegError(f"{name}: expected true or false, not '{value}'")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int | float) and not isinstance(default, bool) and not number:
        raise IchsegError(f"{name}: expected a number, not '{value}'")
    if isinstance(value, str) and "#" in value:
        raise IchsegError(f"{name}: MONAI reads the '#' of '{value}' as '::'; rename, or use an option of 'ichseg'")


def settings_beside(*weights: str | Path) -> dict[str, Any]:
    """What the weights were trained with and fitted for, from the ``model.json`` beside them, if there is one."""
    found: dict[str, Any] = {}
    for file in weights:
        beside = Path(file).with_suffix(".json")
        if beside.is_file():
            try:
                settings = {k: v for k, v in json.loads(beside.read_text(encoding="utf-8")).items() if k != "backbone"}
            except (json.JSONDecodeError, AttributeError):
                raise IchsegError(f"{beside}: not a JSON object; take the one written with the weights") from None
            if found and settings != found:
                raise IchsegError(f"{beside}: trained with {settings}, the classifier before it with {found}")
            found = settings
    return found
