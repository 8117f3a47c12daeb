"""EDAM (Wu et al., CVPR 2021): masks that are activations themselves, and attention across pairs of images."""

from ichseg.methods.edam.masks import EDAM, EDAMMasks, SlicePairs, train_edam
from ichseg.methods.edam.network import EDAMNetwork, activation_masks, pair_indices, seed_masks

__all__ = [
    "EDAM",
    "EDAMMasks",
    "EDAMNetwork",
    "SlicePairs",
    "activation_masks",
    "pair_indices",
    "seed_masks",
    "train_edam",
]
