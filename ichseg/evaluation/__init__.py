"""Masks against the truth: overlap, lesions, surfaces, volumes, slice labels."""

from ichseg.evaluation.detection import evaluate_slices
from ichseg.evaluation.hu_rule import hu_rule
from ichseg.evaluation.intervals import bootstrap_intervals
from ichseg.evaluation.masks import evaluate_masks, print_evaluation
from ichseg.evaluation.surface import surface_agreement
from ichseg.evaluation.tally import COLUMNS, SCAN_COLUMNS, Tally
from ichseg.evaluation.truth import compare, prediction_file, true_scans

__all__ = [
    "COLUMNS",
    "SCAN_COLUMNS",
    "Tally",
    "bootstrap_intervals",
    "compare",
    "evaluate_masks",
    "evaluate_slices",
    "hu_rule",
    "prediction_file",
    "print_evaluation",
    "surface_agreement",
    "true_scans",
]
