"""IRNet (Ahn, Cho, Kwak, CVPR 2019): maps spread between pixels that no boundary separates."""

from ichseg.methods.irnet.paths import Paths, boundary_affinity, edge_walk, path_pixels

__all__ = ["Paths", "boundary_affinity", "edge_walk", "path_pixels"]
