"""What ``python -m monai.bundle run`` lacks: mistyped keys are refused, errors of set-up are one line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ichseg.errors import INTERRUPTED, USAGE, IchsegError, is_set_up, one_line
from ichseg.launch import check_value
from ichseg.resources import bundle_folder

# What ``monai.bundle run`` itself takes.
RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
                 "workflow_type", "workflow_name", "workflow", "bundle_root", "help")  # fmt: skip


def guard_bundle_run(bundle: str, config: str, words: Sequence[str] | None = None) -> None:
    """End ``python -m monai.bundle run`` with one line and exit code 2 if it was given what it cannot use.

    MONAI takes any ``--key value``, does without the one that was meant, and reads ``#`` as a separator of keys even in
    paths. From here on, errors that a user can mend end with one line too; others keep their traceback.

    Args:
        bundle, config: whose keys are known; those of further config files laid over it are too.
        words: the command line; None: this process's own, if it is ``monai.bundle``'s.
    """
    if words is None:
        if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
            return
        words = sys.argv[1:]
        sys.excepthook = _end
    try:
        _check(bundle_folder(bundle) / "configs" / config, _given(words))
    except IchsegError as error:
        print(error, file=sys.stderr)
        raise SystemExit(USAGE) from None


def _given(words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            given[key] = value if equals else words[place + 1] if place + 1 < len(words) else ""
    return given


def _check(file: Path, given: dict[str, str]) -> None:
    overlays = re.findall(r"[^\s,'\"\[\]]+\.(?:ya?ml|json)", given.get("config_file", ""))
    values = _values(file)
    known = {*RUN_ARGUMENTS, *values, *(key for overlay in overlays for key in _values(Path(overlay)))}
    for key, text in given.items():
        top = re.split("::|#", key)[0]
        if top not in known:
            near = difflib.get_close_matches(top, known, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise IchsegError(f"--{key}: not a key of {file}{hint}")
        if key in values and key not in RUN_ARGUMENTS:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                value = text
            check_value(f"--{key}", values[key], value)


def _values(file: Path) -> dict[str, Any]:
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook for errors that nobody caught."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise SystemExit(INTERRUPTED)
    if is_set_up(error):
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(USAGE)
    sys.__excepthook__(kind, error, trace)
