"""Class activation maps: pure functions over activations and gradients, and one extractor."""

from ichseg.cam.component import principal_component
from ichseg.cam.extractor import CAMExtractor, evaluation_mode
from ichseg.cam.maps import (
    class_activation_map,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    min_max,
    score_cam,
    smooth_grad_cam_plus_plus,
)
from ichseg.cam.methods import METHODS
from ichseg.cam.shallow import oriented, shallow_feature_cam
from ichseg.cam.sole_use import sole_use

__all__ = [
    "METHODS",
    "CAMExtractor",
    "class_activation_map",
    "evaluation_mode",
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "min_max",
    "oriented",
    "principal_component",
    "score_cam",
    "shallow_feature_cam",
    "smooth_grad_cam_plus_plus",
    "sole_use",
]
