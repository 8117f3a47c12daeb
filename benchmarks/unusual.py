"""Do scans stand out that the model was not made for? Prints one JSON line.

    python benchmarks/unusual.py SCANS --count 20

Real scans, clipped to -20 to 100 HU, are changed as other kernels, doses, scanners and modalities would change them,
and their score ``unusual`` is measured as a folder run does: its median, its largest and smallest value, and the share
of scans flagged for it.
These are imitations: a real bone kernel or MR differs from the training scans in more ways.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import commit
from scipy import ndimage

from ichseg.anatomy.appearance import UNLIKE
from ichseg.bundle import BundleParts
from ichseg.io import find_nifti, read_volume, write_volume
from ichseg.transforms.unusual import NO_BRAIN

Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
AIR, TOP = -20.0, 100.0  # HU between which everything happens, as in scans clipped there


def blurred(image: np.ndarray, mm: float, _: np.random.Generator) -> np.ndarray:
    """A soft kernel."""
    return ndimage.gaussian_filter(image, (1 / mm, 1 / mm, 0))


def sharpened(strength: float) -> Change:
    """A sharp kernel: what a blur of 1 mm takes away is added ``strength`` times."""
    return lambda image, mm, rng: image + strength * (image - blurred(image, mm, rng))


def noisy(hounsfield: float) -> Change:
    """A low dose: noise of this deviation with a grain of 1 mm."""

    def change(image: np.ndarray, mm: float, rng: np.random.Generator) -> np.ndarray:
        grain = ndimage.gaussian_filter(rng.normal(size=image.shape), (0.5 / mm, 0.5 / mm, 0))
        return image + hounsfield * grain / grain.std()

    return change


CHANGES: dict[str, Change] = {
    "as they are": lambda image, mm, rng: image,
    "blurred by 1 mm": blurred,
    "sharpened once": sharpened(1.0),
    "sharpened four times (a bone kernel)": sharpened(4.0),
    "noise of 10 HU": noisy(10.0),
    "noise of 20 HU": noisy(20.0),
    "10 HU brighter": lambda image, mm, rng: image + 10,
    "fluid bright, bone dark (as in T2-weighted MR)": lambda image, mm, rng: np.where(image > 80, 0, 80 - image),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, help="folder of NIfTI scans")
    parser.add_argument("--count", type=int, default=20, help="scans, evenly chosen (default: 20)")
    options = parser.parse_args()
    files = find_nifti(options.scans)
    chosen = [files[place] for place in np.unique(np.linspace(0, len(files) - 1, options.count).round().astype(int))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare = BundleParts("ich_segmentation", "inference.yaml", {"device_name": "cpu"})["preprocessing"]
    told = {name: figures([score(file, change, prepare) for file in chosen]) for name, change in CHANGES.items()}
    about = {"benchmark": "unusual", "commit": commit(), "scans": len(chosen), "limit": UNLIKE}
    print(json.dumps({**about, "changes": told}))


def score(file: Path, change: Change, prepare: Any) -> float | None:
    """``unusual`` of a changed scan; None where no brain was found."""
    volume = read_volume(file)
    mm = float(np.sqrt((volume.affine[:3, :2] ** 2).sum(axis=0)).mean())
    image = np.clip(volume.array.astype(np.float32), AIR, TOP)
    head = image > AIR + 1  # the air around it stays
    made = np.where(head, change(image, mm, np.random.default_rng(0)), AIR).clip(AIR, TOP)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        write_volume(path, np.rint(made).astype(np.int16), volume.affine)
        item = prepare({"image": str(path)})
    if NO_BRAIN in item.get("flags", ()):
        return None
    return float(item["unusual"])


def figures(scores: list[float | None]) -> dict[str, float]:
    """Share of scans that are flagged, and the range of the scores."""
    known = [one for one in scores if one is not None]
    flagged = sum(one is None or one > UNLIKE for one in scores) / len(scores)
    found = {"flagged": round(flagged, 3), "no_brain": len(scores) - len(known)}
    if known:
        found |= {"median": round(statistics.median(known), 2), "smallest": min(known), "largest": max(known)}
    return found


if __name__ == "__main__":
    main()
