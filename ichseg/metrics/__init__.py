"""IoU over a data set, lesion localization, volumes and diameters, agreement and calibration."""

from typing import TYPE_CHECKING

from ichseg.late import imported_late
from ichseg.metrics.agreement import limits_of_agreement
from ichseg.metrics.calibration import Calibration
from ichseg.metrics.localization import LesionLocalization
from ichseg.metrics.measures import (
    MEASURES,
    hemorrhage_volume,
    measure_mask,
    voxel_ml,
    without_small_holes,
    without_small_lesions,
)

if TYPE_CHECKING:
    from ichseg.metrics.overlap import DatasetIoU, dice
    from ichseg.metrics.roc import roc_auc
else:
    __getattr__ = imported_late(__name__, {"DatasetIoU": "overlap", "dice": "overlap", "roc_auc": "roc"})

__all__ = [
    "MEASURES",
    "Calibration",
    "DatasetIoU",
    "LesionLocalization",
    "dice",
    "hemorrhage_volume",
    "limits_of_agreement",
    "measure_mask",
    "roc_auc",
    "voxel_ml",
    "without_small_holes",
    "without_small_lesions",
]
