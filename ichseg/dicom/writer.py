"""The step of a folder run that writes results as DICOM objects next to the mask."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection

from ichseg.dicom.capture import captures
from ichseg.dicom.files import Source
from ichseg.dicom.headers import MANUFACTURER, read_dataset
from ichseg.dicom.listing import stack_of
from ichseg.dicom.objects import Origin, report, segmentation, source_headers
from ichseg.errors import ScanError
from ichseg.io import atomic_path, scan_name
from ichseg.io.folder import ROOT, subfolder
from ichseg.io.urls import DICOM
from ichseg.overrides import object_kinds
from ichseg.provenance import file_hash
from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.saver import BEFORE_WRITE
from ichseg.transforms.volumes import remarks_of


class WriteDicomd(SingleKeyTransform):
    """Write a mask of a DICOM series as SEG, SR and secondary captures; scans that are not DICOM pass as they are.

    Files: ``NAME_seg.dcm`` (not for an empty mask), ``NAME_sr.dcm``, ``NAME_capture/001.dcm`` and on. Each appears
    whole or not at all; the paths are added to the list under ``saved``. Those of an earlier run that are not written
    now are removed. What cannot be made of an odd header is told under ``flags``.

    Args:
        keys: the mask (1, X, Y, Z) on the grid of its file; one key.
        output_dir: folder for the objects.
        kinds: see :func:`ichseg.overrides.object_kinds`.
        weights: the weight file, whose hash is named in the objects.
        threshold: of the probability, for the objects.
        measured_key: what :class:`ichseg.transforms.MeasureHemorrhaged` found.
        probability_key: the probability of hemorrhage in the scan, if there is one.
        image_key: the scan; what its meta data say is doubtful goes into the report, as what stands under ``flags``.
        allow_missing_keys: do nothing where the key is not there.

    Raises:
        IchsegError: an unknown kind.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        kinds: str | Sequence[str],
        weights: str | Path,
        threshold: float | None = None,
        measured_key: str = "measured",
        probability_key: str = "probability",
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.kinds = object_kinds("dicom_objects", kinds)
        self.output_dir, self.weights, self.threshold = Path(output_dir), Path(weights), threshold
        self.measured_key, self.probability_key, self.image_key = measured_key, probability_key, image_key

    def described(self) -> dict[str, Any]:
        """For :func:`ichseg.provenance.describe`."""
        return {"kinds": self.kinds, "threshold": self.threshold}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        if DICOM not in item:
            return item
        for key in self.key_iterator(item):
            mask = np.asarray(item[key][0]) > 0
            name = self.output_dir / subfolder(item[key].meta["filename_or_obj"], item.get(ROOT, ""))
            name = name / scan_name(item[key].meta["filename_or_obj"])
            found = self._objects(name, mask, item) if self.kinds else {}
            _remove_others(name, found)
            for path, made in found.items():
                item.get(BEFORE_WRITE, bool)(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as temporary:
                    made.save_as(temporary, enforce_file_format=True)
                item["saved"] = [*item.get("saved", ()), path]
        return item

    def _objects(self, name: Path, mask: np.ndarray, item: dict[Hashable, Any]) -> dict[Path, Any]:
        stack, origin = stack_of(item[DICOM]), Origin(file_hash(self.weights), self.threshold)
        sources = source_headers(stack)
        found: dict[Path, Any] = {}
        segmented = None
        if "seg" in self.kinds and mask.any():
            with _doubted(item, "SEG"):
                segmented = segmentation(mask, stack, sources, origin)
                found[_file(name, "seg")] = segmented
        if "sr" in self.kinds:
            with _doubted(item, "SR"):
                measured = item[self.measured_key]
                doubts = [*remarks_of(item.get(self.image_key)), *item.get("flags", ())]
                told = report(measured, stack, sources, origin, segmented, item.get(self.probability_key), doubts)
                found[_file(name, "sr")] = told
        if "capture" in self.kinds:
            with _doubted(item, "secondary capture"):
                for number, made in enumerate(captures(mask, stack, sources, origin), start=1):
                    found[name.with_name(f"{name.name}_capture") / f"{number:03d}.dcm"] = made
        return found


@contextlib.contextmanager
def _doubted(item: dict[Hashable, Any], kind: str) -> Iterator[None]:
    """An object that cannot be made of an odd header is a doubt about the scan, whose mask is there."""
    try:
        yield
    except (OSError, ScanError):
        raise
    except Exception as error:  # highdicom's and pydicom's own, of many types
        why = " ".join(str(error).split())[:120] if isinstance(error, ValueError) else type(error).__name__
        item["flags"] = [*item.get("flags", ()), f"no {kind} could be written ({why})"]


def _remove_others(name: Path, found: Mapping[Path, Any]) -> None:
    """Objects of an earlier run that are not written now would tell of another mask."""
    for path in objects_of(name):
        if path not in found and _is_own(path):
            path.unlink()


def objects_of(name: Path) -> list[Path]:
    """Existing objects of a mask; ``name`` is its path without ``_ich.nii.gz``."""
    pictures = sorted(name.with_name(f"{name.name}_capture").glob("*.dcm"))
    return [path for path in (_file(name, "seg"), _file(name, "sr"), *pictures) if path.is_file()]


def _file(name: Path, kind: str) -> Path:
    return name.with_name(f"{name.name}_{kind}.dcm")


def _is_own(path: Path) -> bool:
    try:
        header = read_dataset(Source(path), pixels=False, only=("SOPClassUID", "Manufacturer"))
    except ScanError:
        return False
    return bool(header.get("Manufacturer") == MANUFACTURER)
