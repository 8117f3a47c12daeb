"""Running networks over folders of scans."""

from ichseg.inference.precision import PRECISIONS, PrecisionInferer
from ichseg.inference.runner import FolderRunner
from ichseg.inference.scans import ScanDataset, list_scans, scan_root
from ichseg.inference.scoring import SliceScorer

__all__ = [
    "PRECISIONS",
    "FolderRunner",
    "PrecisionInferer",
    "ScanDataset",
    "SliceScorer",
    "list_scans",
    "scan_root",
]
