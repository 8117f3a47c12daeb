"""Thin slices averaged to slabs: by how much of each lies in the slab, at the ends by what there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ichseg.transforms import AverageSlabs


def scan(step, count=7, axis=2, ends=False):
    values = torch.zeros(1, 2, 2, count)
    values[..., 0 if ends else 3] = 1.0
    spacing = [0.5, 0.5, 0.5]
    spacing[axis] = step
    # The largest step need not be the slices': their normal is. Slices are axial, so that axis runs upward.
    order = [0, 1, 2] if axis == 2 else [1, 2, 0]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for row, column in enumerate(order):
        affine[row, column] = spacing[column]
    values = values if axis == 2 else values.permute(0, 3, 1, 2)
    return MetaTensor(values, affine=torch.from_numpy(affine))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (5.0, [0, 0, 0, 1, 0, 0, 0]),
        (4.0, [0, 0, 0, 1, 0, 0, 0]),  # thick enough
        (2.5, [0, 0, 0.25, 0.5, 0.25, 0, 0]),
        (1.0, [0, 0.2, 0.2, 0.2, 0.2, 0.2, 0]),
    ],
)
@pytest.mark.parametrize("axis", [2, 0])
def test_a_slice_counts_by_its_share_of_the_slab(step, expected, axis):
    made = AverageSlabs(5.0)(scan(step, axis=axis))
    line = made[0, 0, 0] if axis == 2 else made[0, :, 0, 0]
    if step == 1.0:  # the slices at the ends have no whole slab
        torch.testing.assert_close(line.as_tensor()[2:5], torch.full((3,), 0.2))
    else:
        torch.testing.assert_close(line.as_tensor(), torch.tensor(expected).float())
    assert made.shape == scan(step, axis=axis).shape


def test_at_the_ends_the_slab_is_what_there_is():
    line = AverageSlabs(5.0)(scan(2.5, ends=True))[0, 0, 0].as_tensor()
    torch.testing.assert_close(line[:3], torch.tensor([2 / 3, 0.25, 0.0]))
    flat = MetaTensor(torch.full((1, 2, 2, 6), 7.0), affine=torch.diag(torch.tensor([1.0, 1, 1, 1])))
    torch.testing.assert_close(AverageSlabs(5.0)(flat).as_tensor(), flat.as_tensor())


def test_noise_of_thin_slices_goes_down():
    noise = MetaTensor(torch.randn(1, 40, 40, 30), affine=torch.diag(torch.tensor([1.0, 1, 1, 1])))
    assert AverageSlabs(5.0)(noise)[..., 5:-5].std() == pytest.approx(5**-0.5, rel=0.05)
    assert AverageSlabs(0.0)(noise) is noise and AverageSlabs(5.0)(noise.as_tensor()) is not None
    with pytest.raises(ValueError, match="non-negative"):
        AverageSlabs(-1.0)
