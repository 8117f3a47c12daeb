"""What the report shows of one scan, kept beside the masks until the page is put together."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged
from PIL import Image

from ichseg.anatomy import on_grid
from ichseg.folder.parts import CASES
from ichseg.io import scan_name, slice_axis, spacing_mm, write_text
from ichseg.io.folder import ROOT, subfolder
from ichseg.io.geometry import LPS, turned
from ichseg.report.montage import labeled, slice_picture, telling_slices
from ichseg.transforms.lesions import MIDLINE
from ichseg.transforms.saver import BEFORE_WRITE

PICTURES, PICTURE_PIXELS, JPEG_QUALITY = 6, 224, 82


class KeepForReportd(SaveImaged):
    """Keep pictures of a scan with its mask for ``report.html``: ``report_cases/NAME.json`` in the output folder.

    A subclass of ``SaveImaged``, so that programs which save by themselves drop it; where one keeps it but no mask file
    was saved, it does nothing.

    Args:
        keys: the mask (1, X, Y, Z) on the grid of its file; one key.
        image_key: the windowed scan (C, X, Y, Z) in [0, 1], of which the first channel is shown; axes to the left, back
            and head of the patient.
        output_dir: folder of the masks.
        data_root_dir: as of the masks.
        level, width: the window of the scan in HU.
        enabled: False keeps nothing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        image_key: str = "image",
        data_root_dir: str = "",
        level: float = 50.0,
        width: float = 130.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(keys, output_dir=output_dir, print_log=False)
        self.output_dir, self.image_key, self.root = Path(output_dir), image_key, data_root_dir
        self.low, self.width, self.enabled = level - width / 2, width, enabled

    def described(self) -> dict[str, Any]:
        """What the files depend on, for :func:`ichseg.provenance.describe`."""
        return {"low": self.low, "width": self.width, "enabled": self.enabled}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        saved = [Path(path) for path in item.get("saved", ()) if Path(path).name.endswith("_ich.nii.gz")]
        for key in self.key_iterator(item) if self.enabled and saved else ():
            mask, image = item[key], item[self.image_key]
            affine, to_head = np.asarray(mask.affine), np.asarray(image.affine)
            gray = (image.as_tensor()[0] * 255).round_().byte().numpy()
            kept = case_pictures(mask.as_tensor()[0].numpy(), affine, gray, to_head, self.low, self.width)
            if (plane := item.get(MIDLINE)) is not None:
                kept["volume"]["midline"] = [*plane.normal, plane.offset]
            kept["volume"]["mask_file"] = os.path.relpath(saved[-1], self.output_dir)
            source = Path(mask.meta["filename_or_obj"])
            path = self.output_dir / CASES / subfolder(source, item.get(ROOT, self.root)) / f"{scan_name(source)}.json"
            item.get(BEFORE_WRITE, bool)(path)
            write_text(path, json.dumps(kept))
            item["saved"] = [*item["saved"], path]
        return item


def case_pictures(
    mask: np.ndarray, affine: np.ndarray, gray: np.ndarray, gray_affine: np.ndarray, low: float, width: float
) -> dict[str, Any]:
    """A montage with outlines, and all slices as one JPEG for the viewer.

    Args:
        mask: (X, Y, Z) on the grid of its file.
        affine: (4, 4) of the mask.
        gray: (X, Y, Z) uint8, axes to the left, back and head of the patient; any in-plane size and part of the slices.
        gray_affine: (4, 4) of ``gray``.
        low, width: Hounsfield units of black, and from black to white.
    """
    # The gray slices may be a part of the mask's, such as the head alone: every gray voxel looks up its own place.
    lying, lying_affine = turned(mask > 0, affine, LPS)
    marked = on_grid(lying, lying_affine, gray.shape, gray_affine)
    through = slice_axis(gray_affine)
    slices = np.moveaxis(gray, through, -1)
    marked = np.moveaxis(marked, through, -1)
    reversed_ = bool(affine[2, slice_axis(affine)] < 0)
    count = slices.shape[2]
    pictures, numbers = [], []
    for index in telling_slices(marked, min(PICTURES, count), marked):
        hounsfield = slices[..., index].astype(np.float32) / 255 * width + low
        picture = slice_picture(hounsfield, marked[..., index], size=PICTURE_PIXELS)
        number = count - index if reversed_ else index + 1
        pictures.append(labeled(picture, str(number)))
        numbers.append(int(number))
    strip = Image.new("RGB", (PICTURE_PIXELS * len(pictures), PICTURE_PIXELS))
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * PICTURE_PIXELS, 0))
    columns = math.ceil(math.sqrt(count))
    wide, high = slices.shape[:2]
    sheet = np.zeros((math.ceil(count / columns) * high, columns * wide), np.uint8)
    for index in range(count):
        row, column = divmod(index, columns)
        sheet[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = slices[..., index].T
    ordered = gray_affine[:, [*(axis for axis in range(3) if axis != through), through, 3]]
    areas = marked.sum(axis=(0, 1))
    start = int(areas.argmax()) if areas.any() else count // 2
    volume = {
        "jpeg": _jpeg(Image.fromarray(sheet)),
        "columns": columns,
        "shape": [int(wide), int(high), int(count)],
        "spacing": [round(mm, 5) for mm in spacing_mm(ordered)],
        "affine": [[round(float(value), 6) for value in line] for line in ordered],
        "slope": width / 255,
        "offset": low,
        "reversed": reversed_,
        "start": count - start if reversed_ else start + 1,
        # From mm (to the right, the front and the head) to indices of the file, and which of these counts slices.
        "stored": [[round(float(value), 6) for value in line] for line in np.linalg.inv(affine)[:3]],
        "stored_axis": slice_axis(affine),
    }
    return {"montage": _jpeg(strip), "numbers": numbers, "volume": volume}


def _jpeg(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(stream.getvalue()).decode("ascii")
