"""Networks: slice classifiers with named stages, and weights from files. The U-Net is MONAI's own."""

from ichseg.networks.classifiers import (
    BACKBONES,
    ClassifierEnsemble,
    cam_layers,
    load_ensemble,
    slice_classifier,
)
from ichseg.networks.supervision import DeeplySupervised
from ichseg.networks.weights import load_weights, read_checkpoint

__all__ = [
    "BACKBONES",
    "ClassifierEnsemble",
    "DeeplySupervised",
    "cam_layers",
    "load_ensemble",
    "load_weights",
    "read_checkpoint",
    "slice_classifier",
]
