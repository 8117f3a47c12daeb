"""Tables and pictures of results."""

from ichseg.report.detection import evaluate_slices
from ichseg.report.evaluation import COLUMNS, evaluate_masks, print_evaluation
from ichseg.report.montage import montage, slice_picture, telling_slices

__all__ = [
    "COLUMNS",
    "evaluate_masks",
    "evaluate_slices",
    "montage",
    "print_evaluation",
    "slice_picture",
    "telling_slices",
]
