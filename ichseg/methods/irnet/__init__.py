"""IRNet (Ahn, Cho, Kwak, CVPR 2019): maps spread between pixels that no boundary separates."""

from ichseg.methods.irnet.masks import BoundaryMasks, train_boundaries
from ichseg.methods.irnet.network import BoundaryLoss, BoundaryNetwork, boundary_labels
from ichseg.methods.irnet.paths import Paths, boundary_affinity, edge_walk, path_pixels

__all__ = [
    "BoundaryLoss",
    "BoundaryMasks",
    "BoundaryNetwork",
    "Paths",
    "boundary_affinity",
    "boundary_labels",
    "edge_walk",
    "path_pixels",
    "train_boundaries",
]
