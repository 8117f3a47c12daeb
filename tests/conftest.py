"""Shared fixtures: tiny phantoms, real scans where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No time limits: machines differ, and so does their load.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A data folder of five tiny phantoms, folds 0 to 4."""
    from ichseg.data.phantom import prepare_phantom

    folder = tmp_path_factory.mktemp("data") / "phantoms"
    prepare_phantom(folder, scans=5, seed=3, size=64, slices=8)
    return folder


@pytest.fixture(scope="session")
def real_bcihm() -> Path:
    """The BCIHM release, or a skip."""
    folder = REAL / "bcihm"
    if not folder.is_dir():
        pytest.skip("real BCIHM scans are not here")
    return folder


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Tests draw the same numbers every time."""
    import torch

    torch.manual_seed(0)
