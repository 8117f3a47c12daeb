"""Scans read one at a time; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from torch.utils.data import Dataset

from ichseg.errors import NO_ROOM, NotAScan, ScanError, chain, first_cause, one_line
from ichseg.folder.journal import kept_aside
from ichseg.folder.ondisk import Items
from ichseg.io import scan_name
from ichseg.io.geometry import SLABS, TILTED
from ichseg.io.urls import DICOM
from ichseg.transforms.volumes import joined_remarks, remarks_of


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with a name for its outputs: that of its file, unless it has one."""
    return entry if "case" in entry or "image" not in entry else {"case": scan_name(str(entry["image"])), **entry}


class ScanDataset(Dataset):
    """Whole scans, read and preprocessed one at a time; a scan that fails becomes ``{"failed": reason}``.

    What is no scan at all, such as a scout, becomes ``{"skipped": reason}``.

    Args:
        data: data dictionaries with ``image``, a file; its name without ending is the ``case``, if there is none.
        transform: the preprocessing.
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.data: Sequence[dict[str, Any]] = data if isinstance(data, Items) else [_named(entry) for entry in data]
        self.transform = transform
        self.make_way: Callable[[Path], str | None] | None = None  # see :meth:`ichseg.folder.Journal.make_way`

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            item = dict(self.data[index])
            if "broken" in item:
                raise ScanError(item["broken"])
            return self._from_dicom(item) if DICOM in item else self.transform(item)
        except Exception as error:  # whatever is wrong with one file must not stop the others
            cause = first_cause(error)
            if isinstance(cause, OSError) and cause.errno in NO_ROOM:
                raise cause from None
            skipped = any(isinstance(link, NotAScan) for link in chain(error))
            return {**self.data[index], "skipped" if skipped else "failed": one_line(error)}

    def _from_dicom(self, item: dict[str, Any]) -> dict[str, Any]:
        """The scan of a series, which knows more than its NIfTI file does: the place of every slice."""
        from ichseg.dicom import write_scan

        known, moved = item[DICOM], list[str]()

        def before(path: Path) -> None:
            if self.make_way is not None and (name := self.make_way(path)):
                moved.append(name)

        doubts = [*known["doubts"], *write_scan(item, before), *map(kept_aside, moved)]
        item = self.transform(item)
        for value in item.values():
            if isinstance(value, MetaTensor):
                flags = [flag for flag in remarks_of(value) if flag != TILTED]
                notes = [*remarks_of(value, "notes"), *known["notes"]]
                remarks = {"flags": joined_remarks([*doubts, *flags]), "notes": joined_remarks(notes)}
                value.meta.update({SLABS: known[SLABS], **remarks})
        return item
