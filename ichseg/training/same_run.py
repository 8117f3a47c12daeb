"""The settings that decide what a training makes: compared before an interrupted one goes on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ichseg.bundle import NONE, config_values, laid_over, surrounding_config
from ichseg.data.folds import parse_folds
from ichseg.networks.lite_unet import imagenet_file
from ichseg.processes import place_and_count
from ichseg.provenance import describe, file_hash

SEVERAL_PROCESSES = "multi_gpu_train.yaml"  # laid over a training config
# Keys of training configs by what they are: where a training runs ...
OF_THE_MACHINE = ("bundle_root", "cuda_graphs", "device", "device_name", "num_workers")
# ... where its files lie (what is in them is compared, not their names) ...
PLACES = ("cache_dir", "datalist", "dataset_dir", "output_dir", "pseudo_dir", "weights")
# ... how long it goes on: a finished training may be continued ...
LENGTH = ("epochs", "patience", "val_interval")
# ... and what only starts or records it; the last five are of MONAI's tracking.
AROUND = ("finalize", "imports", "initialize", "overrides_check", "run", "experiment_name", "is_not_rank0", "run_name",
          "save_execute_config", "tracking_uri")  # fmt: skip
# Parts that do not count: the answer itself, scans in memory, of which there are hashes ...
OF_ITSELF = "made_of"
HASHED = ("data", "scans")
# ... and handlers that only watch.
WATCHING = ("EpochBar", "EpochHistory", "MLFlowHandler", "PrintMetrics", "ProgressBar", "StatsHandler",
            "TensorBoardImageHandler", "TensorBoardStatsHandler", "ValidationHandler")  # fmt: skip
LEFT_OUT = "(left out)"


def run_settings(bundle: str, config: str, **more: Any) -> dict[str, Any]:
    """What makes a run of a training config the same run; for the config's own ``made_of``.

    Args:
        bundle, config: the config that this stands in. What was changed of it, on the command line, from Python or by
            further configs, counts; :data:`SEVERAL_PROCESSES` does not, but the number of processes does.
        **more: hashes of what it learns from.

    Returns:
        see :func:`settings_of`; without :data:`PLACES` and :data:`LENGTH`.
    """
    own, processes = config_values(bundle, config), place_and_count()[1]
    settings = settings_of(
        own, surrounding_config() or own, (*PLACES, *LENGTH), config_values(bundle, SEVERAL_PROCESSES)
    )
    return {**settings, **({"processes": processes} if processes > 1 else {}), **more}


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
        expressions, by paths such as ``train::trainer::amp`` or ``config::loss``.

    Raises:
        IchsegError: folds that are none.
    """
    skipped = {*OF_THE_MACHINE, *AROUND, *without}
    content = {key: value for key, value in content.items() if key not in skipped and not key.startswith("_")}
    found: dict[str, Any] = {}
    parts = {}
    for key, value in content.items():
        if _is_file(value):
            found[key] = file_hash(value)
        elif isinstance(value, Path):
            continue
        elif not _plain(own.get(key)) or not _plain(value):
            parts[key] = value
        elif key in own and key.endswith("_folds") and value is not None:
            found[key] = sorted(set(parse_folds(value)))  # "0-2" and [2, 1, 0] are the same
        else:
            found[key] = None if value == NONE else value
    if found.get("architecture") == "lite" and found.get("encoder_weights") in ("auto", "imagenet"):
        file = imagenet_file()  # what that comes to here and now
        found["encoder_weights"] = None if file is None else file_hash(file)
    usual = {key: value for key, value in own.items() if key in parts}
    sides = [dict(_leaves(usual))]
    if overlay is not None:
        laid = {key: value for key, value in overlay.items() if key.split("::")[0] in usual}
        sides.append(dict(_leaves(laid_over(usual, laid))))
    now = dict(_leaves(parts))
    for path in sorted({*now, *sides[0]}):
        value = now.get(path, LEFT_OUT)
        if all(value != side.get(path, LEFT_OUT) for side in sides):
            found[path if "::" in path else f"config::{path}"] = value
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and plain value of everything in nested dictionaries and lists."""
    if isinstance(value, Mapping | list) and value:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(one for one in value if not _watches(one))
        for key, inner in pairs:
            if key != OF_ITSELF and not (key in HASHED and isinstance(inner, list)):
                yield from _leaves(inner, f"{path}::{key}" if path else str(key))
    elif _is_file(value):
        yield path, file_hash(value)
    else:
        yield path, None if value == NONE else value if isinstance(value, dict | list) else describe(value)


def _watches(value: Any) -> bool:
    """True for a handler, or its part of the config, that changes nothing."""
    name = value.get("_target_") if isinstance(value, Mapping) else type(value).__name__
    return str(name).split(".")[-1] in WATCHING


def _is_file(value: Any) -> bool:
    """True for what names a file. A word alone, such as ``lite``, is none, whatever lies in the current folder."""
    if not isinstance(value, str | Path) or str(value).startswith(("@", "$")):
        return False
    try:
        return (Path(value).name != str(value) or bool(Path(value).suffix)) and Path(value).is_file()
    except (OSError, ValueError):  # no name of a file
        return False


def _plain(value: Any) -> bool:
    """A value a user may choose, in contrast to a path, an expression or a part of the config."""
    if isinstance(value, list | tuple):
        return all(_plain(one) for one in value)
    return (
        value is None
        or isinstance(value, bool | int | float)
        or (isinstance(value, str) and (value == NONE or not value.startswith(("@", "$"))))
    )
