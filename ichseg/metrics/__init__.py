"""IoU over a data set, lesion localization, volume."""

from ichseg.metrics.detection import roc_auc
from ichseg.metrics.localization import LesionLocalization
from ichseg.metrics.overlap import DatasetIoU, dice
from ichseg.metrics.volume import hemorrhage_volume

__all__ = ["DatasetIoU", "LesionLocalization", "dice", "hemorrhage_volume", "roc_auc"]
