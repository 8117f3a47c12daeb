"""Data sets: manifests, folds, datalists, one module per public data set, the phantom, slices.

torch is imported only with :class:`SliceDataset`, so preparing data stays light.
"""

from typing import TYPE_CHECKING, Any

from ichseg.data.bcihm import prepare_bcihm
from ichseg.data.bhsd import prepare_bhsd
from ichseg.data.datalist import attach_pseudo_labels, load_datalist, load_masked, write_datalist
from ichseg.data.folds import assign_folds
from ichseg.data.manifest import load_manifest, manifest_names
from ichseg.data.nifti import prepare_nifti
from ichseg.data.subtypes import SUBTYPE_NAMES, SUBTYPES

if TYPE_CHECKING:
    from ichseg.data.slices import SliceDataset, balanced_sampler

__all__ = [
    "SUBTYPES",
    "SUBTYPE_NAMES",
    "SliceDataset",
    "assign_folds",
    "attach_pseudo_labels",
    "balanced_sampler",
    "load_datalist",
    "load_manifest",
    "load_masked",
    "manifest_names",
    "prepare_bcihm",
    "prepare_bhsd",
    "prepare_nifti",
    "write_datalist",
]


def __getattr__(name: str) -> Any:
    if name in ("SliceDataset", "balanced_sampler"):
        from ichseg.data import slices

        return getattr(slices, name)
    raise AttributeError(f"module 'ichseg.data' has no attribute '{name}'")
