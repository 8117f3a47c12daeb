"""Weight files written before version 0.7, whose settings were in a separate ``model.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError
from ichseg.networks.classifiers import ClassifierSettings, slice_classifier
from ichseg.networks.context_unet import NetworkEnsemble
from ichseg.networks.segmenters import ARCHITECTURES, SegmenterSettings, segmenter
from ichseg.networks.weights import load_weights, read_checkpoint, save_weights

# What a segmenter was made for where an early model.json does not say.
EARLY = {"window_level": 50, "window_width": 130}


def convert_weights(old: str | Path, new: str | Path, settings: str | Path | None = None) -> dict[str, Any]:
    """Write an old weight file and its settings as one file.

    Args:
        old: a state dict.
        new: the file to write.
        settings: the JSON file; None: ``old`` with the ending ``.json``.

    Returns:
        the settings.

    Raises:
        IchsegError: a file is missing, or the settings do not fit the weights.
    """
    beside = Path(old).with_suffix(".json") if settings is None else Path(settings)
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise IchsegError(f"{beside}: cannot be read ({error.strerror}); --settings names the file") from None
    except ValueError:
        raise IchsegError(f"{beside}: not a JSON file") from None
    if not isinstance(values, dict) or "size" not in values:
        raise IchsegError(f"{beside}: not the settings of a model (key 'size' is missing)")
    state = read_checkpoint(old)
    state = state.get("model", state)
    kind = ClassifierSettings if "backbone" in values else SegmenterSettings
    known = {**EARLY, **{k: v for k, v in values.items() if k in {field.name for field in fields(kind)}}}
    if kind is ClassifierSettings:
        made: Any = ClassifierSettings(**known)
        load_weights(slice_classifier(made.backbone), old)
    else:
        single = not any(name.startswith("members.") for name in state)
        made = _fitting(Path(old), known, single)
        if made.architecture == "context" and single:  # a member, as it was trained
            state = {f"members.0.{name}": value for name, value in state.items()}
    save_weights(new, state, made)
    return asdict(made)


def _fitting(old: Path, known: dict[str, Any], single: bool) -> SegmenterSettings:
    """The settings with the architecture that the weights fit: early settings do not name it."""
    refused = ""
    for architecture in [known["architecture"]] if "architecture" in known else ARCHITECTURES:
        try:
            made = SegmenterSettings(**{**known, "architecture": architecture})
            network = segmenter(architecture, made.channels, made.members)
            load_weights(network.members[0] if single and isinstance(network, NetworkEnsemble) else network, old)
            return made
        except IchsegError as error:
            refused = str(error)
    raise IchsegError(refused)
