"""Overlap, localization, volume: worked numbers and what happens to empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ichseg.metrics import DatasetIoU, LesionLocalization, dice, hemorrhage_volume, roc_auc


def test_dataset_iou_is_not_the_mean_of_images():
    # Three images of 100 pixels: ten right, one of two right, one false pixel on an empty image.
    metric = DatasetIoU()
    for true, predicted in ((range(10), range(10)), (range(2), range(1)), ((), range(1))):
        t, p = torch.zeros(100), torch.zeros(100)
        t[list(true)], p[list(predicted)] = 1, 1
        metric.update(p, t)
    assert metric.miou() == pytest.approx(0.91962, abs=1e-5)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.02])
def test_predicting_nothing_scores_half(share):
    target = torch.zeros(10_000)
    target[: int(share * 10_000)] = 1
    metric = DatasetIoU()
    metric.update(torch.zeros(10_000), target)
    assert metric.miou() == pytest.approx((1 - share) / 2)


def test_absent_class_is_nan_and_codes_are_checked():
    metric = DatasetIoU()
    metric.update(torch.zeros(4), torch.zeros(4))
    assert metric.iou()[0] == 1 and math.isnan(metric.miou())
    with pytest.raises(ValueError, match="between 0 and 1"):
        metric.update(torch.tensor([2]), torch.tensor([0]))
    with pytest.raises(ValueError, match="differ in shape"):
        metric.update(torch.zeros(2), torch.zeros(3))


def toy():
    truth, prediction = np.zeros((8, 8)), np.zeros((8, 8))
    truth[1:3, 1:3] = truth[5:7, 5:7] = truth[0, 7] = 1
    prediction[2:4, 2:4] = prediction[6, 0] = prediction[3, 6] = 1
    return prediction, truth


def test_localization_worked_example():
    prediction, truth = toy()
    metric = LesionLocalization()
    metric.update(prediction, truth)
    assert metric.compute() == pytest.approx({"CL": 1 / 3, "ML": 2 / 3, "FPL": 2 / 3})
    iou = DatasetIoU()
    iou.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert iou.iou().tolist() == pytest.approx([50 / 63, 1 / 14])
    assert iou.miou() == pytest.approx(0.43254, abs=1e-5)


def test_connectivity_decides_what_a_lesion_is():
    diagonal = np.eye(3)
    for connectivity, count in ((4, 3), (8, 1)):
        metric = LesionLocalization(connectivity)
        metric.update(np.zeros((3, 3)), diagonal)
        assert metric.true == count
    with pytest.raises(ValueError, match="connectivity must be one of"):
        LesionLocalization(5)


def test_localization_sums_over_stacks_and_is_nan_without_lesions():
    prediction, truth = toy()
    stacked, single = LesionLocalization(), LesionLocalization()
    stacked.update(np.stack([prediction, truth]), np.stack([truth, truth]))
    single.update(prediction, truth)
    single.update(truth, truth)
    assert stacked.compute() == single.compute()
    empty = LesionLocalization()
    empty.update(np.zeros((4, 4)), np.zeros((4, 4)))
    assert all(math.isnan(v) for v in empty.compute().values())


def test_dice_of_empty_masks_is_nan():
    assert math.isnan(dice(torch.zeros(3), torch.zeros(3)))
    assert dice(torch.tensor([1, 1, 0]), torch.tensor([0, 1, 1])) == pytest.approx(0.5)


def test_volume_under_shear_is_the_determinant():
    mask = np.zeros((10, 10, 10))
    mask[2:4, 2:4, 2:4] = 1
    mask[7, 7, 7] = 1
    affine = np.diag([0.5, 0.5, 5.0, 1.0])
    affine[1, 2] = 1.7  # gantry tilt
    assert hemorrhage_volume(mask, affine) == {"volume_ml": pytest.approx(9 * 0.00125), "lesions": 2}


def test_roc_auc_counts_ties_half():
    assert roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(0.75)
    assert roc_auc([1, 1, 1], [0, 1, 0]) == pytest.approx(0.5)
    assert math.isnan(roc_auc([1, 2], [1, 1]))
