"""RCA (Zhou et al., CVPR 2022): regional semantic contrast and aggregation over a memory of regions."""

from ichseg.methods.rca.masks import RCAMasks, train_rca
from ichseg.methods.rca.memory import RegionMemory, aggregated, masked_mean, region_contrast, region_of
from ichseg.methods.rca.network import RCA, RCALoss, RCAOutput

__all__ = [
    "RCA",
    "RCALoss",
    "RCAMasks",
    "RCAOutput",
    "RegionMemory",
    "aggregated",
    "masked_mean",
    "region_contrast",
    "region_of",
    "train_rca",
]
