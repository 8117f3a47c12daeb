"""RCA (Zhou et al., CVPR 2022): regional semantic contrast and aggregation over a memory of regions."""

from ichseg.methods.rca.memory import RegionMemory, aggregated, masked_mean, region_contrast, region_of

__all__ = ["RegionMemory", "aggregated", "masked_mean", "region_contrast", "region_of"]
