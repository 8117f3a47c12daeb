"""The settings that decide what a training makes: compared before an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ichseg.bundle import NONE, config_values, surrounding_config
from ichseg.networks.lite_unet import imagenet_file
from ichseg.provenance import describe, file_hash

SEVERAL_PROCESSES = "multi_gpu_train.yaml"  # laid over a training config
# Keys of training configs by what they are: where a training runs ...
OF_THE_MACHINE = ("bundle_root", "cuda_graphs", "device_name", "num_workers")
# ... where its files lie (what is in them is compared, not their names) ...
PLACES = ("cache_dir", "datalist", "dataset_dir", "output_dir", "pseudo_dir", "weights")
# ... how long it goes on: a finished training may be continued ...
LENGTH = ("epochs", "patience", "val_interval")
# ... and what only starts or watches it.
AROUND = ("finalize", "imports", "initialize", "overrides_check", "run")
# Parts that do not count: what only watches, and data, of which there are hashes.
NOT_COUNTED = {"data", "handlers", "scans"}
LEFT_OUT = "(left out)"


def run_settings(bundle: str, config: str, **more: Any) -> dict[str, Any]:
    """What makes a run of a training config the same run; for the config's own ``made_of``.

    Args:
        bundle, config: the config that this stands in. What was changed of it, on the command line, from Python or by
            further configs, counts; :data:`SEVERAL_PROCESSES` does not.
        **more: hashes of what it learns from.

    Returns:
        see :func:`settings_of`; without :data:`PLACES` and :data:`LENGTH`.
    """
    own = config_values(bundle, config)
    overlay = config_values(bundle, SEVERAL_PROCESSES)
    return {**settings_of(own, surrounding_config() or own, (*PLACES, *LENGTH), overlay), **more}


def settings_of(
    own: Mapping[str, Any],
    content: Mapping[str, Any],
    without: Collection[str] = (),
    overlay: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a config says that decides the result of a training.

    Args:
        own: the config as its bundle has it.
        content: the same with what was changed.
        without: keys that do not count, besides those of the machine.
        overlay: a further config, whose values do not count as changes.

    Returns:
        its plain values by their keys, of files that they name a hash; and what differs from ``own`` in parts and
        expressions, by paths such as ``train::trainer::amp``.
    """
    skipped = {*OF_THE_MACHINE, *AROUND, *without}
    content = {key: value for key, value in content.items() if key not in skipped and not key.startswith("_")}
    found: dict[str, Any] = {}
    parts = {}
    for key, value in content.items():
        if isinstance(value, str | Path) and Path(value).is_file():
            found[key] = file_hash(value)
        elif _plain(value):
            found[key] = None if value == NONE else value
        elif not isinstance(value, Path):
            parts[key] = value
    if found.get("architecture") == "lite" and found.get("encoder_weights") in ("auto", "imagenet"):
        file = imagenet_file()  # what that comes to here and now
        found["encoder_weights"] = None if file is None else file_hash(file)
    now, usual = dict(_leaves(parts)), dict(_leaves({k: v for k, v in own.items() if k in parts}))
    laid = dict(_leaves(overlay or {}))
    for path in sorted({*now, *usual}):
        value = now.get(path, LEFT_OUT)
        if NOT_COUNTED.isdisjoint(path.split("::")) and value not in (
            side.get(path, LEFT_OUT) for side in (usual, laid)
        ):
            found[path] = value
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and plain value of everything in nested dictionaries and lists."""
    if isinstance(value, Mapping | list) and value:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _leaves(inner, f"{path}::{key}" if path else str(key))
    else:
        yield path, None if value == NONE else value if isinstance(value, dict | list) else describe(value)


def _plain(value: Any) -> bool:
    """A value a user may choose, in contrast to a path, an expression or a part of the config."""
    if isinstance(value, list | tuple):
        return all(_plain(one) for one in value)
    return (
        value is None
        or isinstance(value, bool | int | float)
        or (isinstance(value, str) and (value == NONE or not value.startswith(("@", "$"))))
    )
