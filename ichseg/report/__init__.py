"""Tables and pictures of results."""

from ichseg.report.case import KeepForReportd
from ichseg.report.detection import evaluate_slices
from ichseg.report.evaluation import evaluate_masks, print_evaluation
from ichseg.report.implants import implant_montage
from ichseg.report.montage import montage, slice_picture, telling_slices
from ichseg.report.page import FolderReport, merge_report, run_facts, write_report
from ichseg.report.surface import surface_agreement
from ichseg.report.tables import markdown_table, write_csv, write_json
from ichseg.report.tally import COLUMNS, SCAN_COLUMNS, Tally
from ichseg.report.truth import compare, prediction_file, true_scans

__all__ = [
    "COLUMNS",
    "SCAN_COLUMNS",
    "FolderReport",
    "KeepForReportd",
    "Tally",
    "compare",
    "evaluate_masks",
    "evaluate_slices",
    "implant_montage",
    "markdown_table",
    "merge_report",
    "montage",
    "prediction_file",
    "print_evaluation",
    "run_facts",
    "slice_picture",
    "surface_agreement",
    "telling_slices",
    "true_scans",
    "write_csv",
    "write_json",
    "write_report",
]
