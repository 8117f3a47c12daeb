"""Saving masks through :mod:`ichseg.io`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from ichseg.errors import ScanError
from ichseg.io import header_affine, same_grid, scan_name, write_like
from ichseg.io.folder import ROOT, subfolder
from ichseg.io.lay import has_lost
from ichseg.transforms.base import BACKENDS
from ichseg.transforms.volumes import plain

BEFORE_WRITE = "before_write"  # a key of the data dictionary


class SaveImageMaskd(SaveImaged):
    """Save masks, or probabilities, as NIfTI in the geometry of the scan they belong to: ``<name>_<postfix>.nii.gz``.

    Shape, both forms and both codes are those of the scan's own file, the file appears whole or not at all, and
    an error is raised as it is. (``SaveImaged`` rebuilds the header, writes in place and wraps errors; as its
    subclass this one is dropped wherever programs drop that.)

    Args:
        keys: masks (1, X, Y, Z) on the grid of the file, as ``Invertd`` leaves them.
        output_dir: folder for the masks.
        output_postfix: what is added to the scan's name.
        data_root_dir: folders below it are kept below ``output_dir``; empty keeps none.
        dtype: of the voxels: ``uint8`` for masks, ``float32`` for probabilities.
        enabled: False saves nothing.
        allow_missing_keys: leave out masks that are not there.

    The paths written are added to the list under the key ``saved``; what stands under ``before_write`` is called with
    each path before. A folder under ``data_root`` stands in for ``data_root_dir``.
    """

    backend = BACKENDS

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "ich",
        data_root_dir: str = "",
        dtype: str = "uint8",
        enabled: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, output_postfix=output_postfix, print_log=False,
                         allow_missing_keys=allow_missing_keys)  # fmt: skip
        self.output_dir, self.postfix, self.root = Path(output_dir), output_postfix, data_root_dir
        self.dtype, self.enabled = np.dtype(dtype), enabled

    def described(self) -> dict[str, Any]:
        """What the files depend on, for :func:`ichseg.provenance.describe`."""
        return {"postfix": self.postfix, "dtype": str(self.dtype), "enabled": self.enabled}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item) if self.enabled else ():
            source = getattr(item[key], "meta", {}).get("filename_or_obj")
            if source is None:
                raise ScanError(f"key '{key}': the scan of the mask is unknown (no 'filename_or_obj')")
            folder = self.output_dir / subfolder(source, item.get(ROOT, self.root))
            path = folder / f"{scan_name(source)}_{self.postfix}.nii.gz"
            self._check_place(item[key], key, source)
            values = plain(item[key])[0].cpu().numpy()
            if self.dtype.kind in "ui" and values.dtype.kind == "f":
                values = np.rint(values)
            item.get(BEFORE_WRITE, bool)(path)
            write_like(path, values.astype(self.dtype, copy=False), source)
            item["saved"] = [*item.get("saved", ()), path]
        return item

    def _check_place(self, mask: Any, key: Hashable, source: str) -> None:
        """Refuse a mask that says it lies elsewhere than the file: its voxels would be written to the wrong places."""
        own = np.asarray(getattr(mask, "affine", np.eye(4)), dtype=float)
        if has_lost(own):
            return
        shape, wanted = tuple(mask.shape[1:]), header_affine(source)
        if not has_lost(wanted) and not same_grid(shape, own, shape, wanted):
            raise ScanError(f"key '{key}': not on the grid of {source} (its affine differs); Invertd brings it back")
