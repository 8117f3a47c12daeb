"""The bundle in an application of the MONAI Deploy App SDK: a DICOM folder becomes the command line's mask.

Runs where ``monai-deploy-app-sdk`` is installed, in an environment of its own: docs/monai_apps.md says how to make one.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from dicom_files import save_series

from ichseg.bundle import bundle_folder
from ichseg.cli import main

pytest.importorskip("monai.deploy")
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Image, IOType, Operator
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    IOMapping,
    MonaiBundleInferenceOperator,
)


class Keep(Operator):
    """Keeps the mask it is given."""

    def setup(self, spec):
        spec.input("mask")

    def compute(self, op_input, op_output, context):
        self.fragment.mask = op_input.receive("mask")


class Outline(Application):
    """DICOM folder -> mask, by the SDK's own operators and the bundle as it is."""

    folder = None
    mask = None

    def compose(self):
        read = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self.folder, name="read")
        choose = DICOMSeriesSelectorOperator(self, name="choose")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        outline = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=Application.init_app_context([]),
            bundle_path=bundle_folder("ich_segmentation"),
            name="outline",
        )
        self.add_flow(read, choose, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(choose, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, outline, {("image", "image")})
        self.add_flow(outline, Keep(self, name="keep"), {("pred", "mask")})


def test_mask_is_that_of_the_command_line(phantoms, tmp_path):
    scan = nib.as_closest_canonical(nib.load(sorted((phantoms / "images").glob("*.nii.gz"))[0]))
    hounsfield = np.rint(scan.get_fdata()).astype(int)[::-1, ::-1]  # axes to the left and back
    save_series(tmp_path / "study", hounsfield, spacing=float(scan.header.get_zooms()[0]))
    app = Outline([])
    app.folder = tmp_path / "study"
    app.run()
    assert main(["segment", str(tmp_path / "study"), str(tmp_path / "masks"), "--no-report", "--device", "cpu"]) == 0
    own = nib.load(next((tmp_path / "masks").rglob("*_ich.nii.gz")))
    theirs = np.swapaxes(app.mask.asnumpy(), 0, 2)
    assert np.asarray(own.dataobj).any() and theirs.shape == own.shape
    np.testing.assert_array_equal(theirs, np.asarray(own.dataobj))
