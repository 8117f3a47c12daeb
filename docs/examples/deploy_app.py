"""An application of the MONAI Deploy App SDK: a folder with one DICOM study becomes a DICOM segmentation.

python deploy_app.py STUDY OUTPUT

The bundle is used as it is. The SDK's reader resamples nothing but knows no gantry tilt and no uneven spacing; for such
series use ``ichseg segment``, which writes onto the source images.
"""

from __future__ import annotations

import sys
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Image, IOType
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSegmentationWriterOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    IOMapping,
    MonaiBundleInferenceOperator,
)
from monai.deploy.operators.dicom_seg_writer_operator import SegmentDescription
from pydicom.sr.codedict import codes

from ichseg.bundle import bundle_folder
from ichseg.version import __version__


class OutlineHemorrhage(Application):
    """Read, choose the series, make a volume, outline, write."""

    def __init__(self, study: Path, output: Path) -> None:
        self.study, self.output = Path(study), Path(output)
        super().__init__([])

    def compose(self) -> None:
        read = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self.study, name="read")
        choose = DICOMSeriesSelectorOperator(self, name="choose")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        self.outline = MonaiBundleInferenceOperator(
            self,
            app_context=Application.init_app_context([]),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=bundle_folder("ich_segmentation"),
            name="outline",
        )
        hemorrhage = SegmentDescription(
            segment_label="hemorrhage",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Hemorrhage,
            algorithm_name="ichseg",
            algorithm_family=codes.DCM.ArtificialIntelligence,
            algorithm_version=__version__,
        )
        write = DICOMSegmentationWriterOperator(
            self, segment_descriptions=[hemorrhage], output_folder=self.output, name="write"
        )
        self.add_flow(read, choose, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(choose, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, self.outline, {("image", "image")})
        self.add_flow(choose, write, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(self.outline, write, {("pred", "seg_image")})


if __name__ == "__main__":
    OutlineHemorrhage(Path(sys.argv[1]), Path(sys.argv[2])).run()
