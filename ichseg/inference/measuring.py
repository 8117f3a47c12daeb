"""Measuring masks that are there already."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ichseg.errors import IchsegError, ScanError
from ichseg.inference.call import measure
from ichseg.inference.results import Results
from ichseg.inference.scans import scan_root
from ichseg.io import find_nifti, scan_name
from ichseg.io.folder import OUTPUT_POSTFIXES

PROBABILITY = "_probability"


def measure_folder(
    masks: str | Path,
    output: str | Path | None = None,
    images: str | Path | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Results:
    """Measure every mask at or below ``masks``; one that cannot be read is a row that says so.

    Args:
        masks: a folder of masks, or one file; probabilities that ichseg wrote are left out.
        output: folder for ``measures.csv`` and ``measures.jsonl``; None writes nothing.
        images: the scans, a folder laid out like ``masks`` or one file, for the side; None leaves the side out.
        progress: wraps the list of masks.

    Returns:
        the rows: ``case``, ``status``, what :func:`ichseg.metrics.measure_mask` gives, ``message``, ``file``.

    Raises:
        IchsegError: a folder is not there or holds no mask.
    """
    root = Path(scan_root(masks))
    found = [path for path in find_nifti(masks) if not scan_name(path).endswith(PROBABILITY)]
    if images is not None and not Path(images).exists():
        raise IchsegError(f"{images}: no such file or folder")
    results = Results(output if output is not None else root, [str(path) for path in found], "measures")
    for path in progress(found):
        case = str(path.relative_to(root).with_name(scan_name(path)))
        row: dict[str, Any] = {"case": case, "status": "ok", "file": str(path)}
        try:
            image = None if images is None else _scan_of(case, Path(images))
            row |= measure(path, image=image)
            if images is not None and image is None:
                row |= {"status": "flagged", "message": f"{images}: no scan of this name; the side is not known"}
        except ScanError as error:
            row |= {"status": "failed", "stage": "read", "message": str(error)}
        results.add(row, write=output is not None)
    if output is not None:
        results.write()
    return results


def _scan_of(case: str, images: Path) -> Path | None:
    if images.is_file():
        return images
    names = [case, *(case.removesuffix(postfix) for postfix in OUTPUT_POSTFIXES if case.endswith(postfix))]
    places = [images / f"{name}{ending}" for name in reversed(names) for ending in (".nii.gz", ".nii")]
    return next((place for place in places if place.is_file()), None)
