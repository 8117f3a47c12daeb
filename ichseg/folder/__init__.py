"""Running over a folder of scans: which are there, what is done, one row for each."""

from ichseg.folder.journal import Journal
from ichseg.folder.parts import merge_parts
from ichseg.folder.results import Results
from ichseg.folder.runner import FolderRunner
from ichseg.folder.scans import ScanDataset, list_scans, names_files, scan_root
from ichseg.folder.shard import Shard

__all__ = [
    "FolderRunner",
    "Journal",
    "Results",
    "ScanDataset",
    "Shard",
    "list_scans",
    "merge_parts",
    "names_files",
    "scan_root",
]
