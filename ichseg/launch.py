"""Start a bundle's config through monai.bundle, as the command line does."""

from __future__ import annotations

import difflib
import json
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.resources import bundle_folder

SIZE_STEP = 32  # what the networks halve
# What ``monai.bundle run`` itself takes.
RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
                 "workflow_type", "workflow_name", "workflow", "bundle_root", "help")  # fmt: skip


def run_bundle(bundle: str, config: str, overrides: dict[str, Any], settings: Sequence[str]) -> None:
    """Start a bundle's config through monai.bundle; None among the overrides leaves the config's value."""
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


def refuse_unknown_overrides(bundle: str, config: str, words: Sequence[str] | None = None) -> None:
    """End with exit code 2 if ``python -m monai.bundle run`` was given a key that nothing knows.

    MONAI takes any ``--key value`` and does without the one that was meant.

    Args:
        bundle, config: whose keys are known; those of further config files laid over it are too.
        words: the command line; None: this process's own, if it is ``monai.bundle``'s.
    """
    if words is None:
        words = sys.argv[1:] if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py") else []
    given: dict[str, str] = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            following = words[place + 1] if place + 1 < len(words) else ""
            given[key] = value if equals else following
    files = [str(bundle_folder(bundle) / "configs" / config), *re.findall(r"[^\s,'\"\[\]]+\.(?:ya?ml|json)",
                                                                       given.get("config_file", ""))]  # fmt: skip
    known = {*RUN_ARGUMENTS, *(key for file in files for key in _top_keys(file))}
    for key in given:
        top = re.split("::|#", key)[0]
        if top not in known:
            near = difflib.get_close_matches(top, known, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            print(f"--{key}: not a key of {files[0]}{hint}", file=sys.stderr)
            raise SystemExit(2)


def _top_keys(file: str) -> list[str]:
    import yaml

    return list(yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}) if Path(file).is_file() else []


def check_numbers(values: dict[str, Any]) -> None:
    """Size, epochs and batch size are what the networks can take.

    Raises:
        IchsegError: names the one that is not.
    """
    size = values.get("size")
    if size is not None and (size <= 0 or size % SIZE_STEP):
        raise IchsegError(f"size {size} must be a multiple of {SIZE_STEP}")
    for key in ("epochs", "batch_size"):
        if values.get(key) is not None and values[key] < 1:
            raise IchsegError(f"{key} must be at least 1, not {values[key]}")


def parse_settings(bundle: str, config: str, settings: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` of the command line as values of a bundle's config.

    Raises:
        IchsegError: a key is not in the config.
    """
    import yaml

    file = bundle_folder(bundle) / "configs" / config
    known = yaml.safe_load(file.read_text(encoding="utf-8"))
    given = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key.split("::")[0] not in known:
            raise IchsegError(f"--set {setting}: '{key}' is not a key of {file}; write KEY=VALUE with a key from there")
        given[key] = yaml.safe_load(value)
    return given


def settings_beside(*weights: str) -> dict[str, Any]:
    """Size and window the weights were trained with, from the ``model.json`` beside them, if there is one."""
    found: dict[str, Any] = {}
    for file in weights:
        beside = Path(file).with_suffix(".json")
        if beside.is_file():
            try:
                settings = {k: v for k, v in json.loads(beside.read_text(encoding="utf-8")).items() if k != "backbone"}
            except (json.JSONDecodeError, AttributeError):
                raise IchsegError(f"{beside}: not a JSON object; remove it and give --size") from None
            if found and settings != found:
                raise IchsegError(f"{beside}: trained with {settings}, the classifier before it with {found}")
            found = settings
    return found
