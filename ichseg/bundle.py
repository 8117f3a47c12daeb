"""The bundles: where they lie, their configs as values and as objects, and starting them as the command line does."""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import yaml

from ichseg.errors import INTERRUPTED, INTERRUPTION, USAGE, IchsegError, chain, first_cause, is_set_up, one_line
from ichseg.logs import hush_monai
from ichseg.overrides import check_kind, check_nested, check_numbers, check_text, check_value

logger = logging.getLogger(__name__)
# What ``monai.bundle run`` itself takes.
RUN_ARGUMENTS = ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
                 "workflow_type", "workflow_name", "workflow", "bundle_root", "help")  # fmt: skip
NONE = "$None"


def resource_folder(name: str) -> Path:
    """Folder ``bundles`` or ``data_manifests``: next to the package in a checkout, inside it once installed.

    Raises:
        IchsegError: the folder is missing from the installation.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise IchsegError(f"{package}: the '{name}' folder is missing; reinstall ichseg")


def bundle_folder(name: str) -> Path:
    """Folder of one bundle, such as ``ich_segmentation``."""
    folder = resource_folder("bundles") / name
    if not folder.is_dir():
        raise IchsegError(f"{folder}: no such bundle")
    return folder


def weight_file(weights: str | Path | None = None, bundle_root: str | Path | None = None) -> Path:
    """The weights of a run of ``ich_segmentation``.

    Args:
        weights: the ones asked for; None: ``models/model.pt`` of the bundle.
        bundle_root: of a config; where it has no such file, such as in another working directory, the bundle is taken
            whose config is run. None, and where there is none either: the model shipped with ichseg.
    """
    if weights is not None:
        return Path(weights)
    shipped = bundle_folder("ich_segmentation") / "models" / "model.pt"
    if bundle_root is None:
        return shipped
    run = _folder_of_run()
    for folder in (Path(bundle_root), *([] if run is None else [run.parent])):
        if (own := folder / "models" / "model.pt").is_file():
            return own
    if run is not None:
        logger.warning("%s: no models/model.pt there; the model shipped with ichseg is used", run.resolve().parent)
    return shipped


def config_file(bundle: str, config: str) -> Path:
    """Path of one config of a bundle."""
    return bundle_folder(bundle) / "configs" / config


def config_values(bundle: str, config: str) -> dict[str, Any]:
    """The keys of a bundle's config, as they are written."""
    return _values(config_file(bundle, config))


class BundleParts:
    """The objects that a bundle's config describes, built when they are asked for: ``parts["network"]``.

    Args:
        bundle, config: which.
        overrides: values, or finished objects, in place of the config's.

    Raises:
        IchsegError: a value is not one the parts can take.
    """

    def __init__(self, bundle: str, config: str, overrides: Mapping[str, Any] | None = None) -> None:
        from monai.bundle import ConfigParser

        self.parser = ConfigParser({**config_values(bundle, config), "bundle_root": str(bundle_folder(bundle))})
        self.parser.update(dict(overrides or {}))

    def __getitem__(self, key: str) -> Any:
        try:
            return self.parser.get_parsed_content(key)
        except RuntimeError as error:  # MONAI's, around ours
            ours = [link for link in chain(error) if isinstance(link, IchsegError)]
            cause = first_cause(error)
            raise (ours[0] if ours else cause if isinstance(cause, ValueError) else error) from None


def run_bundle(
    bundle: str, config: str, overrides: Mapping[str, Any], settings: Sequence[str] = (), overlays: Sequence[str] = ()
) -> None:
    """Start a bundle's config through monai.bundle.

    Args:
        bundle, config: which.
        overrides: values in place of the config's; None leaves it. Paths are ``Path``: of text, MONAI takes ``#`` for
            a separator of keys.
        settings: ``KEY=VALUE`` of the command line.
        overlays: configs of the bundle that are laid over the first.
    """
    root, given = bundle_folder(bundle), given_values(bundle, config, overrides, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import run

        hush_monai()
        run(
            config_file=[str(config_file(bundle, name)) for name in (config, *overlays)],
            meta_file=str(root / "configs" / "metadata.json"),
            logging_file=False,  # type: ignore[arg-type]  # "" and None mean the default file
            **{key: _expressed(value) for key, value in given.items()},
        )


def _expressed(value: Any) -> Any:
    """None as an expression: MONAI leaves the config's value where it is given None itself."""
    if isinstance(value, Mapping):
        return {key: _expressed(inner) for key, inner in value.items()}
    return NONE if value is None else value


def content_with(
    bundle: str, config: str, overrides: Mapping[str, Any], settings: Sequence[str] = ()
) -> dict[str, Any]:
    """A bundle's config with what takes the place of its values; arguments as of :func:`run_bundle`."""
    return laid_over(config_values(bundle, config), given_values(bundle, config, overrides, settings))


def laid_over(content: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with other values, some of them for parts (``a::b``)."""
    from monai.bundle import ConfigParser

    parser = ConfigParser(copy.deepcopy(dict(content)))
    parser.update(dict(values))
    return cast("dict[str, Any]", parser.config)


def given_values(bundle: str, config: str, overrides: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """What takes the place of a config's values; arguments as of :func:`run_bundle`."""
    given = {"bundle_root": str(bundle_folder(bundle)), **{k: v for k, v in overrides.items() if v is not None}}
    given |= parse_settings(bundle, config, settings)
    check_numbers(given)
    return given


# --- values -----------------------------------------------------------------------------------------------------------
def parse_settings(bundle: str, config: str, settings: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` of the command line as values of a bundle's config.

    Raises:
        IchsegError: a key is not in the config, or the value is none for it.
    """
    known = config_values(bundle, config)
    given = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key.split("::")[0] not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"its keys are listed in {config_file(bundle, config)}"
            raise IchsegError(f"--set {setting}: '{key}' is not a key of {config}; {hint}")
        if not equals:
            raise IchsegError(f"--set {setting}: '=VALUE' is missing")
        try:
            given[key] = _yaml_value(text)
        except yaml.YAMLError:
            raise IchsegError(f"--set {setting}: '{text}' is not a YAML value") from None
        check_value(f"--set {key}", known.get(key), given[key])
        if "::" in key:
            check_nested(f"--set {key}", key, known, given[key])
    return given


def _yaml_value(text: str) -> Any:
    """
    Raises:
        YAMLError: the text is none.
    """
    value = yaml.safe_load(text)
    # YAML wants a dot and a sign: 1e-3 is text to it.
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _values(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    stat = file.stat()
    return copy.deepcopy(_read(file, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=128)
def _read(file: Path, _changed: int, _bytes: int) -> dict[str, Any]:
    # libyaml reads a config in a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(file.read_text(encoding="utf-8"), loader) or {}


# --- python -m monai.bundle run ---------------------------------------------------------------------------------------
def guard_bundle_run(bundle: str, config: str, words: Sequence[str] | None = None) -> None:
    """End ``python -m monai.bundle run`` with one line and exit code 2 if it was given what it cannot use.

    In ``monai.bundle.create_workflow`` and other calls from Python, mistyped keys raise an error.

    MONAI takes any ``--key value``, does without the one that was meant, and reads ``#`` as a separator of keys even in
    paths. From here on, errors that a user can fix end with one line too; others keep their traceback.

    Args:
        bundle, config: whose keys are known; those of further config files laid over it are too.
        words: the command line; None: this process's own, if it is ``monai.bundle``'s.
    """
    file = config_file(bundle, config)
    content = surrounding_config() or _values(file)
    if words is None:
        if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
            _check_content(file, content)
            return
        words = sys.argv[1:]
        elsewhere = "bundle_root" not in _given(words) and not Path("configs", config).is_file()
        sys.excepthook = partial(_end, bundle_folder(bundle) if elsewhere else None)
    try:
        given = _given(words)
        _check_words(file, given)
        _check_content(file, content)
        for key in given:
            if re.search("::|#", key):
                check_nested(f"--{key}", key, content, given[key])
    except IchsegError as error:
        print(error, file=sys.stderr)
        raise SystemExit(USAGE) from None


def surrounding_config() -> dict[str, Any]:
    """The config that this is called from, with what was laid over it; empty if called from elsewhere."""
    for caller in _callers():
        if type(caller).__name__ == "ConfigParser" and isinstance(config := vars(caller).get("config"), dict):
            return dict(config)
    return {}


def _folder_of_run() -> Path | None:
    """The folder of the config that a workflow of MONAI runs, if this is called from one."""
    return next((Path(own["config_root_path"]) for own in map(vars, _callers()) if "config_root_path" in own), None)


def _callers() -> Iterator[Any]:
    """The objects whose methods have led here, nearest first."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if hasattr(owner, "__dict__"):
            yield owner
        frame = frame.f_back


def _check_content(file: Path, content: Mapping[str, Any]) -> None:
    """Of a config that other configs or Python laid values over: keys that are nearly those of the bundle's are
    mistyped ones, nested ones too.

    Raises:
        IchsegError: names the key.
    """
    own = _values(file)
    # Configs of the bundle may be laid over each other.
    known = {key for other in file.parent.glob("*.yaml") for key in _values(other)}
    for key in content:
        near = difflib.get_close_matches(key, own, 1, 0.8) if key not in known else []
        # "my_threshold" and "thresholds" may be a user's own, and so is what other values refer to.
        if near and near[0] not in key and not re.search(rf"@{re.escape(key)}\b", repr(content)):
            raise IchsegError(f"{key}: not a key of {file}; did you mean {near[0]}?")
    for key, value in content.items():
        if key in own:
            _check_changes(key, own[key], value)
            if not isinstance(own[key], Mapping | list):
                check_kind(key, own[key], value)


def _check_changes(key: str, own: Any, now: Any) -> None:
    """A nested key that was added leads to something that takes it."""
    if isinstance(own, Mapping) and isinstance(now, Mapping):
        if own.get("_target_") == now.get("_target_"):
            for inner in now:
                if inner not in own:
                    _check_added(f"{key}::{inner}", own, inner, now[inner])
                else:
                    _check_changes(f"{key}::{inner}", own[inner], now[inner])
    elif isinstance(own, list) and isinstance(now, list) and len(own) == len(now):
        for number, (before, after) in enumerate(zip(own, now, strict=True)):
            _check_changes(f"{key}::{number}", before, after)


def _check_added(name: str, own: Mapping[str, Any], key: str, value: Any) -> None:
    """A key that was added to a part of the bundle's config is taken by its target, or no mistyped one of the part."""
    near = difflib.get_close_matches(key, own, 1, 0.8)
    if isinstance(own.get("_target_"), str) or (near and near[0] not in key):
        check_nested(name, f"part::{key}", {"part": dict(own)}, value)


def _given(words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for place, word in enumerate(words):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            given[key] = value if equals else words[place + 1] if place + 1 < len(words) else ""
    return given


def _check_words(file: Path, given: dict[str, str]) -> None:
    overlays = re.findall(r"[^\s,'\"\[\]]+\.(?:ya?ml|json)", given.get("config_file", ""))
    values = _values(file)
    known = {*RUN_ARGUMENTS, *values, *(key for overlay in overlays for key in _values(Path(overlay)))}
    for key, text in given.items():
        top = re.split("::|#", key)[0]
        if top not in known:
            near = difflib.get_close_matches(top, known, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise IchsegError(f"--{key}: not a key of {file}{hint}")
        if key not in RUN_ARGUMENTS and (text == "null" or (text == "None" and values.get(key, "") is not None)):
            taken = "reads this as text" if text == "null" else "takes this for not given"
            raise IchsegError(f"--{key} {text}: MONAI {taken}; write '{NONE}' in single quotes")
        if key in values and key not in RUN_ARGUMENTS:
            check_text(f"--{key}", text)  # before YAML takes what follows a blank and '#' for a comment
            try:
                value = _yaml_value(text)
            except yaml.YAMLError:
                value = text
            check_value(f"--{key}", values[key], value)


def _end(elsewhere: Path | None, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook for errors that nobody caught; ``elsewhere``: the bundle, if the run was started outside of it."""
    if isinstance(error, KeyboardInterrupt):
        print(INTERRUPTION, file=sys.stderr)
        raise SystemExit(INTERRUPTED)
    if is_set_up(error):
        line = one_line(error)
        if elsewhere is not None and ("not found" in line or "no such file" in line):
            line += f" (paths are relative to the current folder; for the bundle's own, add --bundle_root {elsewhere})"
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(USAGE)
    sys.__excepthook__(kind, error, trace)
