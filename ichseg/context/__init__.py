"""Model ensemble, memory bank, spatial context fusion over neighboring slices, aggregation of layers."""

from ichseg.context.aggregation import aggregate, combined_score, upsample
from ichseg.context.bank import MemoryBank
from ichseg.context.fusion import amplify, ensemble, fuse, fuse_scores, normalization, positive_runs, vote

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
    "upsample",
    "vote",
]
