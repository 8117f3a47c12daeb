"""EDAM (Wu et al., CVPR 2021): masks that are activations themselves, and attention across pairs of images."""

from ichseg.methods.edam.network import EDAMNetwork, activation_masks, pair_indices, seed_masks

__all__ = ["EDAMNetwork", "activation_masks", "pair_indices", "seed_masks"]
