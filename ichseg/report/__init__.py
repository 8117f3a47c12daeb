"""Pictures, charts, and the report page."""

from typing import TYPE_CHECKING

from ichseg.late import imported_late
from ichseg.report.implant_montage import implant_montage
from ichseg.report.montage import montage, slice_picture, telling_slices
from ichseg.report.page import FolderReport, merge_report, run_facts, write_report

if TYPE_CHECKING:
    from ichseg.report.case import KeepForReportd
else:
    __getattr__ = imported_late(__name__, {"KeepForReportd": "case"})

__all__ = [
    "FolderReport",
    "KeepForReportd",
    "implant_montage",
    "merge_report",
    "montage",
    "run_facts",
    "slice_picture",
    "telling_slices",
    "write_report",
]
