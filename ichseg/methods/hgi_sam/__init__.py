"""HGI-SAM (Rasoulian et al. 2023): head-wise gradient-infused self-attention maps of a Swin classifier.

Read :mod:`ichseg.methods.hgi_sam.method` first.
"""

from ichseg.methods.hgi_sam.attention import BlockAttention, key_weights, paired, rolled_back, stitched
from ichseg.methods.hgi_sam.method import hgi_sam, hgi_sam_maps, swin_grad_cam_maps, swin_sam, swin_sam_maps
from ichseg.methods.hgi_sam.network import SwinSliceClassifier
from ichseg.methods.hgi_sam.recorder import AttentionRecorder
from ichseg.methods.hgi_sam.settings import HEADS, SwinSettings, any_score_and_label, load_swin, swin_loss
from ichseg.methods.hgi_sam.volume import AttentionMapsd

__all__ = [
    "HEADS",
    "AttentionMapsd",
    "AttentionRecorder",
    "BlockAttention",
    "SwinSettings",
    "SwinSliceClassifier",
    "any_score_and_label",
    "hgi_sam",
    "hgi_sam_maps",
    "key_weights",
    "load_swin",
    "paired",
    "rolled_back",
    "stitched",
    "swin_grad_cam_maps",
    "swin_loss",
    "swin_sam",
    "swin_sam_maps",
]
