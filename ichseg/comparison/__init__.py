"""Related methods, the baselines of the tables and our own presets under one protocol."""

from ichseg.comparison.bench import Bench, Scans
from ichseg.comparison.methods import LABELS, MASKS, NOTHING, Method, methods
from ichseg.comparison.run import FIGURES, compare

__all__ = ["FIGURES", "LABELS", "MASKS", "NOTHING", "Bench", "Method", "Scans", "compare", "methods"]
