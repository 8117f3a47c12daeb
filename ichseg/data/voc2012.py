"""PASCAL VOC 2012, one class against all others -> a data folder in which "hemorrhage" means that class.

``ImageSets/Main/<class>_trainval.txt`` labels every picture, ``SegmentationClass/`` outlines some. Pictures become
scans of one slice in gray, 0 to 255 in the place of Hounsfield units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ichseg.data.datalist import write_datalist
from ichseg.data.folds import fold_scans
from ichseg.defaults import FOLD_TOLERANCE, VOC_CLASSES
from ichseg.errors import IchsegError
from ichseg.io import staged_folder, write_volume

ROOTS = ("", "VOC2012", "VOCdevkit/VOC2012")
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def prepare_voc2012(
    source: str | Path,
    output: str | Path,
    name: str = "person",
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    warn: Callable[[str], None] = lambda text: None,
    fold_tolerance: float = FOLD_TOLERANCE,
) -> dict[str, int]:
    """Convert the training and validation pictures into ``images/``, ``labels/``, tables and ``datalist.json``.

    The rim between objects, which VOC leaves open, counts as background; pictures in which the class is marked as
    difficult count as positive.

    Args:
        source: ``VOCdevkit``, or ``VOC2012`` in it, or what holds it.
        output: a new or empty folder; it appears only when everything has been converted.
        name: of the class.
        progress: wraps the iteration over pictures.
        warn: told, one line each, of what was noticed.
        fold_tolerance: see :func:`ichseg.data.assign_folds`.

    Returns:
        counts: volumes, slices, positive slices, patients.

    Raises:
        IchsegError: an unknown class, another layout, or a file that is missing or cannot be read.
    """
    from PIL import Image

    if name not in VOC_CLASSES:
        raise IchsegError(f"class '{name}' is unknown; choose one of {', '.join(VOC_CLASSES)}")
    source, output = Path(source), Path(output)
    root = next((source / r for r in ROOTS if (source / r / "JPEGImages").is_dir()), None)
    if root is None:
        raise IchsegError(f"{source}: no folder JPEGImages here or in {ROOTS[-1]}")
    labels = _labels(root / "ImageSets" / "Main" / f"{name}_trainval.txt")
    code = VOC_CLASSES.index(name) + 1
    scans: list[dict[str, Any]] = []
    with staged_folder(output) as staged:
        for picture in progress(sorted(labels)):
            gray = _opened(root / "JPEGImages" / f"{picture}.jpg", lambda image: image.convert("L"), Image)
            write_volume(staged / "images" / f"{picture}.nii.gz", gray.astype(np.int16)[..., None], AFFINE)
            scan: dict[str, Any] = {"case": picture, "image": f"images/{picture}.nii.gz", "patient": picture,
                                    "slices": [{"hemorrhage": labels[picture]}]}  # fmt: skip
            outlined = root / "SegmentationClass" / f"{picture}.png"
            if outlined.is_file():
                mask = _opened(outlined, lambda image: image, Image) == code
                if mask.shape != gray.shape:
                    raise IchsegError(f"{outlined}: shape {mask.shape} differs from the picture's {gray.shape}")
                write_volume(staged / "labels" / f"{picture}.nii.gz", mask.astype(np.uint8)[..., None], AFFINE)
                scan |= {"label": f"labels/{picture}.nii.gz", "label_slices": [0]}
            scans.append(scan)
        counts = fold_scans(scans, fold_tolerance, warn)
        write_datalist(staged, f"PASCAL VOC 2012, {name}", scans, finding=name, counts=counts)
    return counts


def _labels(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise IchsegError(f"{path}: file not found; it labels the pictures")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if len(words) != 2 or words[1] not in ("-1", "0", "1"):
            raise IchsegError(f"{path}: line {number}: expected a picture and -1, 0 or 1")
        found[words[0]] = int(words[1] != "-1")
    return found


def _opened(path: Path, change: Callable[[Any], Any], pillow: Any) -> np.ndarray:
    """(columns, rows)."""
    try:
        with pillow.open(path) as image:
            return np.asarray(change(image)).T
    except OSError as error:
        raise IchsegError(f"{path}: picture cannot be read ({' '.join(str(error).split())[-80:]})") from None
