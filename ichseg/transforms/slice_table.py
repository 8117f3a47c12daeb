"""What a slice classifier says, as a table per scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection

from ichseg.data.slices import slice_labels_in_order
from ichseg.errors import ScanError
from ichseg.io import scan_name, write_text
from ichseg.io.folder import ROOT, subfolder
from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.saver import BEFORE_WRITE


class SaveSliceProbabilityd(SingleKeyTransform):
    """Write the probability of every slice to ``NAME_slices.csv``: ``slice`` (from 1, as stored), ``probability``.

    The largest goes under ``probability``, as the scan's; the path is added to the list under ``saved``.

    Args:
        keys: (slices,) probabilities in the order of the image's slices; one key.
        output_dir: folder for the tables.
        image_key: the scan (1, X, Y, slices), whose meta data name its file.
        data_root_dir: folders below it are kept below ``output_dir``; empty keeps none.
        allow_missing_keys: do nothing where the key is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        image_key: str = "image",
        data_root_dir: str = "",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir, self.image_key, self.root = Path(output_dir), image_key, data_root_dir

    def described(self) -> dict[str, Any]:
        """For :func:`ichseg.provenance.describe`."""
        return {"image_key": self.image_key}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            meta, affine = item[self.image_key].meta, np.asarray(item[self.image_key].affine)
            source = meta.get("filename_or_obj")
            if source is None:
                raise ScanError(f"key '{key}': the scan of the slices is unknown (no 'filename_or_obj')")
            shown = [float(value) for value in item[key]]
            stored = np.asarray(meta.get("original_affine", affine))
            values = slice_labels_in_order(shown, stored, affine).tolist()
            path = self.output_dir / subfolder(source, item.get(ROOT, self.root)) / f"{scan_name(source)}_slices.csv"
            item.get(BEFORE_WRITE, bool)(path)
            write_text(path, "slice,probability\n" + "".join(f"{n},{p:.6g}\n" for n, p in enumerate(values, start=1)))
            item["saved"] = [*item.get("saved", ()), path]
            item["probability"] = round(max(values), 4)
            item["measured"] = {}  # there is no mask to measure
        return item
