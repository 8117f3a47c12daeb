"""Running a network: over the slices of a volume, in lower precision, and from Python."""

from ichseg.inference.batches import SliceBatchInferer
from ichseg.inference.inferers import PrecisionCheck, PrecisionInferer
from ichseg.inference.slice_scorer import SliceScorer

__all__ = ["PrecisionCheck", "PrecisionInferer", "SliceBatchInferer", "SliceScorer"]
