"""IoU over a data set, lesion localization, volumes and diameters, agreement and calibration."""

from ichseg.metrics.agreement import limits_of_agreement
from ichseg.metrics.calibration import Calibration
from ichseg.metrics.detection import roc_auc
from ichseg.metrics.lesions import (
    MEASURES,
    hemorrhage_volume,
    measure_mask,
    voxel_ml,
    without_small_holes,
    without_small_lesions,
)
from ichseg.metrics.localization import LesionLocalization
from ichseg.metrics.midline import Plane, mid_sagittal_plane
from ichseg.metrics.overlap import DatasetIoU, dice

__all__ = [
    "MEASURES",
    "Calibration",
    "DatasetIoU",
    "LesionLocalization",
    "Plane",
    "dice",
    "hemorrhage_volume",
    "limits_of_agreement",
    "measure_mask",
    "mid_sagittal_plane",
    "roc_auc",
    "voxel_ml",
    "without_small_holes",
    "without_small_lesions",
]
