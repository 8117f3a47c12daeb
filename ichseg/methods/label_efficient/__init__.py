"""Label-efficient transfer (Spahr et al. 2023): a U-Net pretrained without masks, fine-tuned on few.

Three self-supervised tasks: context restoration, global and local contrastive learning. Three weakly supervised ones:
hemorrhage yes or no, its subtypes, and an attention channel from anomaly detection. All on the same U-Net, whose
weights are then copied by name (:func:`transfer`). Frontiers in Neuroimaging, doi 10.3389/fnimg.2023.1157565.
"""

from ichseg.methods.label_efficient.anomaly import AnomalyNetwork, anomaly_heat, anomaly_loss, with_anomalies
from ichseg.methods.label_efficient.contrastive import local_contrastive_loss, region_vectors
from ichseg.methods.label_efficient.finetune import LogitMaskLoss, pretrained_unet, some_patients
from ichseg.methods.label_efficient.losses import MaskLoss, volume_dice
from ichseg.methods.label_efficient.pretext import (
    TASKS,
    PreparePretext,
    PretextLoss,
    PretextNetwork,
    PretextSettings,
    PretextSlices,
    continued,
)
from ichseg.methods.label_efficient.restoration import swap_patches
from ichseg.methods.label_efficient.unet import (
    ENCODER,
    LabelEfficientSegmenter,
    LabelEfficientUNet,
    TransferReport,
    transfer,
)
from ichseg.methods.label_efficient.views import two_views

__all__ = [
    "ENCODER",
    "TASKS",
    "AnomalyNetwork",
    "LabelEfficientSegmenter",
    "LabelEfficientUNet",
    "LogitMaskLoss",
    "MaskLoss",
    "PreparePretext",
    "PretextLoss",
    "PretextNetwork",
    "PretextSettings",
    "PretextSlices",
    "TransferReport",
    "anomaly_heat",
    "anomaly_loss",
    "continued",
    "local_contrastive_loss",
    "pretrained_unet",
    "region_vectors",
    "some_patients",
    "swap_patches",
    "transfer",
    "two_views",
    "volume_dice",
    "with_anomalies",
]
