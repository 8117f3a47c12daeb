"""Data sets: manifests, folds, datalists, one module per public data set, the phantom, slices.

torch is imported only with what trains, so preparing data stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ichseg.data.bcihm import prepare_bcihm
from ichseg.data.bhsd import prepare_bhsd
from ichseg.data.datalist import attach_pseudo_labels, load_datalist, load_masked, write_datalist
from ichseg.data.folds import assign_folds
from ichseg.data.manifest import load_manifest, manifest_names
from ichseg.data.nifti import prepare_nifti
from ichseg.data.subtypes import SUBTYPE_NAMES, SUBTYPES

if TYPE_CHECKING:
    from ichseg.data.compact import prepare_compact
    from ichseg.data.implants.pool import implant_pool
    from ichseg.data.mixture import SliceMixture
    from ichseg.data.packed import PackedSlices, pack_scans
    from ichseg.data.slices import SliceDataset, balanced_sampler

# Names that bring torch -> their module.
_LATE = {
    "PackedSlices": "packed",
    "SliceDataset": "slices",
    "SliceMixture": "mixture",
    "balanced_sampler": "slices",
    "implant_pool": "implants.pool",
    "pack_scans": "packed",
    "prepare_compact": "compact",
}

__all__ = [
    "SUBTYPES",
    "SUBTYPE_NAMES",
    "PackedSlices",
    "SliceDataset",
    "SliceMixture",
    "assign_folds",
    "attach_pseudo_labels",
    "balanced_sampler",
    "implant_pool",
    "load_datalist",
    "load_manifest",
    "load_masked",
    "manifest_names",
    "pack_scans",
    "prepare_bcihm",
    "prepare_bhsd",
    "prepare_compact",
    "prepare_nifti",
    "write_datalist",
]


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"ichseg.data.{_LATE[name]}"), name)
    raise AttributeError(f"module 'ichseg.data' has no attribute '{name}'")
