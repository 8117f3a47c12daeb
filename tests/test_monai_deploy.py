"""The bundle in an application of the MONAI Deploy App SDK: a DICOM folder becomes the command line's mask.

Runs where ``monai-deploy-app-sdk`` is installed, in an environment of its own: docs/monai_apps.md says how to make one.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_files import save_series

from ichseg.cli import main

pytest.importorskip("monai.deploy")
from monai.deploy.core import Operator

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "deploy_app.py"


class Keep(Operator):
    """Keeps the mask it is given."""

    def setup(self, spec):
        spec.input("mask")

    def compute(self, op_input, op_output, context):
        self.fragment.mask = op_input.receive("mask").asnumpy()


def test_mask_is_that_of_the_command_line(phantoms, tmp_path):
    import pydicom

    spec = importlib.util.spec_from_file_location("deploy_app", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    class Watched(example.OutlineHemorrhage):
        mask = None

        def compose(self):
            super().compose()
            self.add_flow(self.outline, Keep(self, name="keep"), {("pred", "mask")})

    scan = nib.as_closest_canonical(nib.load(sorted((phantoms / "images").glob("*.nii.gz"))[0]))
    hounsfield = np.rint(scan.get_fdata()).astype(int)[::-1, ::-1]  # axes to the left and back
    save_series(tmp_path / "study", hounsfield, spacing=float(scan.header.get_zooms()[0]))
    app = Watched(tmp_path / "study", tmp_path / "out")
    app.run()
    assert main(["segment", str(tmp_path / "study"), str(tmp_path / "masks"), "--no-report", "--device", "cpu"]) == 0
    own = np.asarray(nib.load(next((tmp_path / "masks").rglob("*_ich.nii.gz"))).dataobj)
    theirs = np.swapaxes(app.mask, 0, 2)
    assert own.any() and theirs.shape == own.shape
    np.testing.assert_array_equal(theirs, own)
    written = pydicom.dcmread(next((tmp_path / "out").glob("*.dcm")))
    assert written.Modality == "SEG" and int(written.pixel_array.astype(bool).sum()) == int(own.sum())
