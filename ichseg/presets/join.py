"""Several networks in one weight file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ichseg.errors import IchsegError
from ichseg.networks import SegmenterSettings, read_checkpoint, read_settings, save_weights


def join_members(files: Sequence[Path], output: Path) -> None:
    """Write one weight file for :class:`ichseg.networks.NetworkEnsemble`; :func:`fit_score` completes its settings.

    Args:
        files: ``model.pt`` of each member.
        output: ``model.pt`` of all of them.

    Raises:
        IchsegError: the members differ in their settings.
    """
    settings = [read_settings(file, SegmenterSettings) for file in files]
    if any(other != settings[0] for other in settings):
        raise IchsegError(f"{output}: its members were trained with different settings; choose another output folder")
    joined: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        own = read_checkpoint(file).items()  # an ensemble of one
        joined |= {name.replace("members.0.", f"members.{number}.", 1): value for name, value in own}
    save_weights(output, joined, replace(settings[0], members=len(files)))
