"""Memory that a scan has taken is not kept for the next."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate, pad

from ichseg.data.resampling import SLICES_AT_ONCE, resize_crops
from ichseg.folder.memory import return_small_blocks

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@glibc
def test_small_blocks_go_back_to_the_system():
    """Every thousandth block stays, so that nothing is freed at the end of the heap alone."""
    blocks = [torch.ones(500) for _ in range(60_000)]
    kept = blocks[::1000]
    del blocks
    before = resident_mib()
    assert return_small_blocks()
    assert before - resident_mib() > 60 and all(bool((block == 1).all()) for block in kept)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_slices_cropped_a_few_at_a_time_are_those_of_the_whole(axis, mode):
    """The window reaches beyond the slices; their number is not one of whole parts."""
    shape = [1, 30, 30, 30]
    shape[1 + axis] = 2 * SLICES_AT_ONCE + 1
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50
    found = resize_crops(volume, axis, (-4, 7), (20, 28), (12, 16), mode, (-20.0, 40.0))
    slices = volume.movedim(1 + axis, 0)
    fill = float(volume.min()) if mode == "bilinear" else 0.0
    whole = pad(slices[:, :, :16, 7:], (0, 5, 4, 0), value=fill).clamp(-20.0, 40.0)
    smooth = {"mode": "bilinear", "antialias": True} if mode == "bilinear" else {"mode": "nearest-exact"}
    expected = interpolate(whole, size=(12, 16), **smooth).movedim(0, 1 + axis)
    for stored in (torch.uint16, torch.int32, torch.float64):
        whole_numbers = volume.abs().round()
        taken, again = (
            resize_crops(one, axis, (-4, 7), (20, 28), (12, 16), mode)
            for one in (whole_numbers.to(stored), whole_numbers)
        )
        assert torch.equal(taken, again), stored
    assert torch.equal(found, expected) and found.movedim(1 + axis, 1).is_contiguous()
