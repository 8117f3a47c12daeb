"""AffinityNet, also PSA (Ahn & Kwak, CVPR 2018): maps spread between pixels that look alike to a network.

The network learns from sure pixels alone which neighbors belong together; :func:`ichseg.methods.pairs.random_walk` then
carries a class activation map to the others.
"""

from ichseg.methods.affinity.labels import IGNORED, affinity_labels, background_score, pair_labels, seed_labels
from ichseg.methods.affinity.masks import AffinityMasks, train_affinity
from ichseg.methods.affinity.network import AffinityLoss, AffinityNetwork, pair_affinity

__all__ = [
    "IGNORED",
    "AffinityLoss",
    "AffinityMasks",
    "AffinityNetwork",
    "affinity_labels",
    "background_score",
    "pair_affinity",
    "pair_labels",
    "seed_labels",
    "train_affinity",
]
