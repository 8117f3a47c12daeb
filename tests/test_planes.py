"""Morphology in a plane is SciPy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from ichseg.anatomy.planes import dilated, eroded, filled


@given(st.integers(0, 10_000), st.tuples(st.integers(1, 24), st.integers(1, 24)), st.integers(1, 4))
def test_the_same_as_scipy(seed, shape, steps):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.random(shape), 1.0) > 0.5
    before = mask.copy()
    np.testing.assert_array_equal(eroded(mask, steps), ndimage.binary_erosion(mask, iterations=steps))
    np.testing.assert_array_equal(dilated(mask, steps), ndimage.binary_dilation(mask, iterations=steps))
    np.testing.assert_array_equal(filled(mask), ndimage.binary_fill_holes(mask))
    closed = ndimage.binary_closing(mask, iterations=steps)
    np.testing.assert_array_equal(eroded(dilated(mask, steps), steps), closed)
    np.testing.assert_array_equal(mask, before)
