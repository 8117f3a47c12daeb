"""Running networks over folders of scans."""

from ichseg.inference.batches import SliceBatchInferer
from ichseg.inference.journal import Journal
from ichseg.inference.merge import merge_parts
from ichseg.inference.precision import PrecisionCheck, PrecisionInferer
from ichseg.inference.results import Results
from ichseg.inference.runner import FolderRunner
from ichseg.inference.scans import ScanDataset, list_scans, scan_root
from ichseg.inference.scoring import SliceScorer
from ichseg.inference.shard import Shard

__all__ = [
    "FolderRunner",
    "Journal",
    "PrecisionCheck",
    "PrecisionInferer",
    "Results",
    "ScanDataset",
    "Shard",
    "SliceBatchInferer",
    "SliceScorer",
    "list_scans",
    "merge_parts",
    "scan_root",
]
