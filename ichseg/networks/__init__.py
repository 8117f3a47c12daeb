"""Networks: slice classifiers with named stages, U-Nets, and weights from files."""

from ichseg.networks.backends import on_backend
from ichseg.networks.classifiers import (
    BACKBONES,
    ClassifierEnsemble,
    ClassifierSettings,
    cam_layers,
    classifier_settings,
    deepest_layer,
    load_ensemble,
    slice_classifier,
    stages,
)
from ichseg.networks.context_unet import SUSPICIOUS_SHARE, ContextUNet, NetworkEnsemble, slice_scores, suspicion
from ichseg.networks.convnext import ConvNeXtV2
from ichseg.networks.lite_unet import LiteContextUNet, load_encoder
from ichseg.networks.pretrained import WeightReport, load_pretrained, match_weights
from ichseg.networks.segmenters import (
    ARCHITECTURES,
    PIPELINES,
    SegmenterSettings,
    context_network,
    segmenter,
    segmenter_of,
    segmenter_settings,
    trained_segmenter,
)
from ichseg.networks.supervision import DeeplySupervised
from ichseg.networks.vgg import VGG
from ichseg.networks.weights import load_weights, read_checkpoint, read_settings, save_weights

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "PIPELINES",
    "SUSPICIOUS_SHARE",
    "VGG",
    "ClassifierEnsemble",
    "ClassifierSettings",
    "ContextUNet",
    "ConvNeXtV2",
    "DeeplySupervised",
    "LiteContextUNet",
    "NetworkEnsemble",
    "SegmenterSettings",
    "WeightReport",
    "cam_layers",
    "classifier_settings",
    "context_network",
    "deepest_layer",
    "load_encoder",
    "load_ensemble",
    "load_pretrained",
    "load_weights",
    "match_weights",
    "on_backend",
    "read_checkpoint",
    "read_settings",
    "save_weights",
    "segmenter",
    "segmenter_of",
    "segmenter_settings",
    "slice_classifier",
    "slice_scores",
    "stages",
    "suspicion",
    "trained_segmenter",
]
