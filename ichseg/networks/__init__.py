"""Networks: slice classifiers with named stages, and weights from files. The U-Net is MONAI's own."""

from ichseg.networks.classifiers import (
    BACKBONES,
    ClassifierEnsemble,
    cam_layers,
    deepest_layer,
    load_ensemble,
    slice_classifier,
    stages,
)
from ichseg.networks.convnext import ConvNeXtV2
from ichseg.networks.pretrained import WeightReport, load_pretrained, match_weights
from ichseg.networks.segmenters import ARCHITECTURES, segmenter
from ichseg.networks.supervision import DeeplySupervised
from ichseg.networks.vgg import VGG
from ichseg.networks.weights import load_weights, read_checkpoint

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "VGG",
    "ClassifierEnsemble",
    "ConvNeXtV2",
    "DeeplySupervised",
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
    "stages",
]
