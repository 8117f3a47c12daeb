"""Shared fixtures: tiny phantoms, real scans where they are at hand."""

from __future__ import annotations

import json
import locale
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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
    from ichseg.synthetic.phantom import prepare_phantom

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


def masked_pairs(folder: Path, folds: tuple[int, ...]) -> list[dict[str, str]]:
    """Image and mask of a data folder's scans in some folds, and nothing else, as annotation programs give them."""
    scans = json.loads((folder / "datalist.json").read_text())["training"]
    kept = [scan for scan in scans if scan["fold"] in folds and "label" in scan]
    return [{key: str(folder / scan[key]) for key in ("image", "label")} for scan in kept]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """As many threads inside an operation."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def classifier_file(path: Path, backbone: str = "resnet34", size: int = 64, **settings) -> Path:
    """A weight file of a classifier with random weights."""
    from ichseg.networks import ClassifierSettings, save_weights, slice_classifier

    made = ClassifierSettings(backbone, size, **{"window_level": 50, "window_width": 130, **settings})
    save_weights(path, slice_classifier(backbone).state_dict(), made)
    return path


def segmenter_file(path: Path, architecture: str = "context", size: int = 64, state=None, **settings) -> Path:
    """A weight file of a segmenter, with random weights unless some are given."""
    from ichseg.networks import SegmenterSettings, save_weights, segmenter

    made = SegmenterSettings(architecture, size, **{"window_level": 50, "window_width": 100, **settings})
    save_weights(path, state or segmenter(architecture, made.channels, made.members).state_dict(), made)
    return path


def swin_file(path: Path, size: int = 96, tokens: int = 6) -> Path:
    """A weight file of a Swin slice classifier with random weights."""
    from ichseg.methods.hgi_sam import SwinSettings
    from ichseg.networks import save_weights

    made = SwinSettings("swin_nano", size, [(40, 120), (80, 340), (700, 3200)], tokens)
    save_weights(path, made.network().state_dict(), made)
    return path


def sequence_file(path: Path, size: int = 64) -> Path:
    """A weight file of a classifier of contiguous slices with random weights."""
    from ichseg.methods.resnet_lstm import SequenceSettings
    from ichseg.networks import save_weights

    made = SequenceSettings("resnet18", 8, 3, size, 50, 130)
    save_weights(path, made.network().state_dict(), made)
    return path


def as_usual(patch: pytest.MonkeyPatch) -> None:
    """Drawn heads pass for ordinary scans: nothing is compared with the training scans."""
    patch.setattr("ichseg.transforms.unusual.CompareAppearanced.__call__", lambda self, data: dict(data))


@pytest.fixture(autouse=True)
def same_locale():
    """Writing DICOM through SimpleITK may leave the process with ASCII as its encoding."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Tests draw the same numbers every time."""
    import torch

    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter):
    """One line that says what was skipped and why."""
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in
                      terminalreporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple))  # fmt: skip
    told = "; ".join(f"{count} because {reason}" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"skipped: {told or 'nothing'}")
