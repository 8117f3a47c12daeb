"""Running networks over folders of scans."""

from ichseg.inference.precision import PrecisionCheck, PrecisionInferer
from ichseg.inference.results import Results
from ichseg.inference.runner import FolderRunner
from ichseg.inference.scans import ScanDataset, list_scans, scan_root
from ichseg.inference.scoring import SliceScorer

__all__ = [
    "FolderRunner",
    "PrecisionCheck",
    "PrecisionInferer",
    "Results",
    "ScanDataset",
    "SliceScorer",
    "list_scans",
    "scan_root",
]
