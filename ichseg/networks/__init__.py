"""Networks: slice classifiers with named stages, U-Nets, and weights from files."""

from ichseg.networks.classifiers import (
    BACKBONES,
    ClassifierEnsemble,
    cam_layers,
    deepest_layer,
    load_ensemble,
    slice_classifier,
    stages,
)
from ichseg.networks.context import SUSPICIOUS_SHARE, ContextUNet, NetworkEnsemble, slice_scores, suspicion
from ichseg.networks.convnext import ConvNeXtV2
from ichseg.networks.pretrained import WeightReport, load_pretrained, match_weights
from ichseg.networks.segmenters import ARCHITECTURES, segmenter
from ichseg.networks.supervision import DeeplySupervised
from ichseg.networks.vgg import VGG
from ichseg.networks.weights import load_weights, read_checkpoint

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "SUSPICIOUS_SHARE",
    "VGG",
    "ClassifierEnsemble",
    "ContextUNet",
    "ConvNeXtV2",
    "DeeplySupervised",
    "NetworkEnsemble",
    "WeightReport",
    "cam_layers",
    "deepest_layer",
    "load_ensemble",
    "load_pretrained",
    "load_weights",
    "match_weights",
    "read_checkpoint",
    "segmenter",
    "slice_classifier",
    "slice_scores",
    "stages",
    "suspicion",
]
