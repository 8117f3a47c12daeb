"""MONAI transforms for the other packages of ichseg; they do no arithmetic of their own.

Volumes are (C, X, Y, Z) MetaTensors; the slice axis is found from the affine and the order of slices is kept. Each
transform works alone in any Compose. The pseudo-mask pipeline: ShallowFeatureCAMd -> SpatialContextFusiond ->
LayerAggregationd -> DenseCRFd.
"""

from ichseg.transforms.activation import ClassActivationMap, ClassActivationMapd
from ichseg.transforms.context_fusion import SpatialContextFusion, SpatialContextFusiond
from ichseg.transforms.cupping import RemoveCupping, RemoveCuppingd
from ichseg.transforms.dense_crf import DenseCRFd, RefineWithCRF
from ichseg.transforms.gating import GateSlicesd, KeepIntracranial, KeepIntracraniald
from ichseg.transforms.head_crop import HeadCrop, HeadCropd
from ichseg.transforms.layer_aggregation import LayerAggregation, LayerAggregationd
from ichseg.transforms.lesions import (
    FillSmallHoles,
    FillSmallHolesd,
    MeasureHemorrhaged,
    RemoveSmallLesions,
    RemoveSmallLesionsd,
)
from ichseg.transforms.mask import HemorrhageMask, HemorrhageMaskd, HemorrhageProbability, HemorrhageProbabilityd
from ichseg.transforms.neighbors import NeighborSlices, NeighborSlicesd
from ichseg.transforms.rand_implant import RandImplantHemorrhaged
from ichseg.transforms.reader import HeadCTReader, SlicesLastd, head_ct_loader
from ichseg.transforms.resize import SliceResize, SliceResized
from ichseg.transforms.same_grid import CheckSameGridd
from ichseg.transforms.saver import SaveImageMaskd
from ichseg.transforms.shallow_cam import ShallowFeatureCAM, ShallowFeatureCAMd, cam_keys
from ichseg.transforms.shell import RemoveShelld
from ichseg.transforms.slabs import AverageSlabs, AverageSlabsd
from ichseg.transforms.slice_score import SliceScoredProbability, SliceScoredProbabilityd
from ichseg.transforms.slice_table import SaveSliceProbabilityd
from ichseg.transforms.unusual import CompareAppearanced
from ichseg.transforms.window import (
    BrainWindow,
    BrainWindowd,
    CTWindows,
    CTWindowsd,
    RestoreBone,
    RestoreBoned,
    gray_range,
)

DenseCRF = RefineWithCRF  # the name it had up to 0.6

__all__ = [
    "AverageSlabs",
    "AverageSlabsd",
    "BrainWindow",
    "BrainWindowd",
    "CTWindows",
    "CTWindowsd",
    "CheckSameGridd",
    "ClassActivationMap",
    "ClassActivationMapd",
    "CompareAppearanced",
    "DenseCRF",
    "DenseCRFd",
    "FillSmallHoles",
    "FillSmallHolesd",
    "GateSlicesd",
    "HeadCTReader",
    "HeadCrop",
    "HeadCropd",
    "HemorrhageMask",
    "HemorrhageMaskd",
    "HemorrhageProbability",
    "HemorrhageProbabilityd",
    "KeepIntracranial",
    "KeepIntracraniald",
    "LayerAggregation",
    "LayerAggregationd",
    "MeasureHemorrhaged",
    "NeighborSlices",
    "NeighborSlicesd",
    "RandImplantHemorrhaged",
    "RefineWithCRF",
    "RemoveCupping",
    "RemoveCuppingd",
    "RemoveShelld",
    "RemoveSmallLesions",
    "RemoveSmallLesionsd",
    "RestoreBone",
    "RestoreBoned",
    "SaveImageMaskd",
    "SaveSliceProbabilityd",
    "ShallowFeatureCAM",
    "ShallowFeatureCAMd",
    "SliceResize",
    "SliceResized",
    "SliceScoredProbability",
    "SliceScoredProbabilityd",
    "SlicesLastd",
    "SpatialContextFusion",
    "SpatialContextFusiond",
    "cam_keys",
    "gray_range",
    "head_ct_loader",
]

# As in MONAI, a dictionary transform has two more names: HeadCropD and HeadCropDict for HeadCropd.
_aliases = {
    f"{name[:-1]}{ending}": globals()[name]
    for name in __all__
    if name[0].isupper() and name.endswith("d") and hasattr(globals()[name], "key_iterator")
    for ending in ("D", "Dict")
}
globals().update(_aliases)
__all__ += sorted(_aliases)
