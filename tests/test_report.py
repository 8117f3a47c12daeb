"""Pictures show what they should, and the rule that needs no learning finds blood."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ichseg.evaluation import hu_rule
from ichseg.metrics import dice
from ichseg.report import montage, slice_picture, telling_slices
from ichseg.report.montage import PREDICTION_COLOR, TRUTH_COLOR
from ichseg.synthetic.phantom import phantom_scan


def test_picture_is_upright_and_outlined():
    hounsfield = np.full((40, 40), -1000.0)
    hounsfield[5:15, 20:35] = (
        60  # low first axis: the patient's right, so left in the picture; high second: back, below
    )
    mask = hounsfield > 0
    pixels = np.asarray(slice_picture(hounsfield, prediction=mask, truth=np.roll(mask, 3, 0), size=80))
    assert pixels.shape == (80, 80, 3)
    assert pixels[55, 20].min() > 150 and pixels[20, 60].max() == 0
    colors = {tuple(int(v) for v in p) for p in pixels.reshape(-1, 3)}
    assert PREDICTION_COLOR in colors and TRUTH_COLOR in colors


def test_telling_slices():
    mask = np.zeros((4, 4, 20))
    mask[1, 1, 6:9] = 1
    found = np.zeros_like(mask)
    found[2, 2, 15] = 1
    assert telling_slices(mask, 3) == [6, 7, 8]
    assert telling_slices(mask, 3, found) == [6, 8, 15]
    assert len(telling_slices(np.zeros_like(mask), 4)) == 4


def test_montage_is_written_whole(tmp_path):
    picture = Image.new("RGB", (32, 32))
    montage([("one", [picture, picture]), ("two", [picture])], tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").width == 64 and len(list(tmp_path.iterdir())) == 1


def test_hu_rule_finds_dense_blood_and_little_else():
    scan = phantom_scan(2, ("IPH",), size=160, slices=10)
    index = int((scan.label > 0).sum((0, 1)).argmax())
    truth = scan.label[..., index] > 0
    spacing = abs(scan.affine[0, 0])
    import torch

    found = hu_rule(scan.image[..., index].astype(np.float32), (spacing, spacing))
    assert dice(torch.from_numpy(found), torch.from_numpy(truth)) > 0.7
    healthy = phantom_scan(2, (), size=160, slices=10)
    assert hu_rule(healthy.image[..., index].astype(np.float32), (spacing, spacing)).mean() < 0.01
