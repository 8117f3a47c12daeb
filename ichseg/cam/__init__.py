"""Class activation maps: pure functions over activations and gradients, and one extractor."""

from ichseg.cam.component import principal_component
from ichseg.cam.extractor import METHODS, CAMExtractor
from ichseg.cam.maps import grad_cam, grad_cam_plus_plus, layer_cam, min_max
from ichseg.cam.shallow import oriented, shallow_feature_cam

__all__ = [
    "METHODS",
    "CAMExtractor",
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "min_max",
    "oriented",
    "principal_component",
    "shallow_feature_cam",
]
