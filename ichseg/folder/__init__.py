"""Running over a folder of scans: which are there, what is done, one row for each."""

from typing import TYPE_CHECKING

from ichseg.folder.journal import Journal
from ichseg.folder.listing import list_scans, names_files, scan_root
from ichseg.folder.parts import merge_parts
from ichseg.folder.results import Results
from ichseg.folder.shard import Shard
from ichseg.late import imported_late

if TYPE_CHECKING:
    from ichseg.folder.runner import FolderRunner
    from ichseg.folder.scans import ScanDataset
else:
    __getattr__ = imported_late(__name__, {"FolderRunner": "runner", "ScanDataset": "scans"})

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
