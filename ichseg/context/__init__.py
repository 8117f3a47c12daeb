"""Model ensemble, memory bank, spatial context fusion over neighboring slices, aggregation of layers; support of
pixels by neighboring slices."""

from ichseg.context.aggregation import aggregate, combined_score, upsample
from ichseg.context.bank import MemoryBank
from ichseg.context.fusion import amplify, ensemble, fuse, fuse_scores, normalization, positive_runs, vote
from ichseg.context.support import support_pixels

__all__ = [
    "MemoryBank",
    "aggregate",
    "amplify",
    "combined_score",
    "ensemble",
    "fuse",
    "fuse_scores",
    "normalization",
    "positive_runs",
    "support_pixels",
    "upsample",
    "vote",
]
