"""Chest X-rays from image labels (Viniavskyi, Dobko, Dobosevych, AIME 2020, arXiv 2007.00748), and other slices too.

A classifier regularized by DropBlock, Grad-CAM++ maps, boundaries and a random walk (IRNet), a segmentation network.
Built from the article; the authors' code has another license than ours and was not used.
"""

from ichseg.methods.chest_xray.grabcut import grab_cut
from ichseg.methods.chest_xray.masks import ChestMasks, learn_boundaries, load_resnet, seed_maps

__all__ = ["ChestMasks", "grab_cut", "learn_boundaries", "load_resnet", "seed_maps"]
