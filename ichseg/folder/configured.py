"""The folder runner that a bundle's config describes, for scans that are listed already."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ichseg.bundle import BundleParts


def configured_runner(
    bundle: str, config: str, values: Mapping[str, Any], scans: Sequence[dict[str, Any]] | None = None
) -> Any:
    """The ``evaluator`` of a config, a :class:`ichseg.folder.FolderRunner` with the config's parts.

    Args:
        bundle, config, values: see :class:`ichseg.bundle.BundleParts`.
        scans: data dictionaries in place of those that the config lists. They never pass through the config: MONAI runs
            text that begins with ``$`` as code, and what they hold comes from file names and DICOM headers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for any run of a bundle
        given = dict(values) if scans is None else {**values, "dataset::data": []}
        runner = BundleParts(bundle, config, given)["evaluator"]
    if scans is not None:
        runner.dataset.data = scans
    return runner
