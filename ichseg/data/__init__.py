"""Data sets: manifests, folds, datalists, one module per public data set, slices.

torch is imported only with what trains, so preparing data stays light.
"""

from typing import TYPE_CHECKING

from ichseg.data.bcihm import prepare_bcihm
from ichseg.data.bhsd import prepare_bhsd
from ichseg.data.datalist import (
    attach_pseudo_labels,
    check_folds,
    load_datalist,
    load_masked,
    scans_hash,
    write_datalist,
)
from ichseg.data.folds import assign_folds, parse_folds
from ichseg.data.instance import prepare_instance
from ichseg.data.manifest import load_manifest, manifest_names
from ichseg.data.masked_release import prepare_nifti_masks
from ichseg.data.mbh_seg import prepare_mbh_seg
from ichseg.data.nifti_folder import prepare_nifti
from ichseg.data.rsna import prepare_rsna
from ichseg.data.seq_cq500 import prepare_seq_cq500
from ichseg.data.siim import prepare_siim
from ichseg.data.subtypes import SUBTYPE_NAMES, SUBTYPES
from ichseg.data.voc2012 import prepare_voc2012
from ichseg.late import imported_late

if TYPE_CHECKING:
    from ichseg.data.compact import prepare_compact
    from ichseg.data.packed import PackedSlices, pack_scans
    from ichseg.data.packed_masks import pack_masks
    from ichseg.data.packed_subtypes import pack_subtypes
    from ichseg.data.slice_subtypes import SubtypeSlices
    from ichseg.data.slices import SliceDataset, balanced_sampler
else:
    __getattr__ = imported_late(
        __name__,
        {
            "PackedSlices": "packed",
            "SliceDataset": "slices",
            "SubtypeSlices": "slice_subtypes",
            "balanced_sampler": "slices",
            "pack_masks": "packed_masks",
            "pack_scans": "packed",
            "pack_subtypes": "packed_subtypes",
            "prepare_compact": "compact",
        },
    )

__all__ = [
    "SUBTYPES",
    "SUBTYPE_NAMES",
    "PackedSlices",
    "SliceDataset",
    "SubtypeSlices",
    "assign_folds",
    "attach_pseudo_labels",
    "balanced_sampler",
    "check_folds",
    "load_datalist",
    "load_manifest",
    "load_masked",
    "manifest_names",
    "pack_masks",
    "pack_scans",
    "pack_subtypes",
    "parse_folds",
    "prepare_bcihm",
    "prepare_bhsd",
    "prepare_compact",
    "prepare_instance",
    "prepare_mbh_seg",
    "prepare_nifti",
    "prepare_nifti_masks",
    "prepare_rsna",
    "prepare_seq_cq500",
    "prepare_siim",
    "prepare_voc2012",
    "scans_hash",
    "write_datalist",
]
