"""What a scan looks like, compared with those the model was trained on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor

from ichseg.anatomy.appearance import UNLIKE, Reference, appearance
from ichseg.io import spacing_mm
from ichseg.provenance import value_hash
from ichseg.transforms.base import SingleKeyTransform
from ichseg.transforms.volumes import plain, volume_slice_axis

NO_BRAIN = "no brain found: not a head CT, or one that is hard to read"


class CompareAppearanced(SingleKeyTransform):
    """Measure how unlike the training scans a scan is, see :class:`ichseg.anatomy.appearance.Reference`.

    The distance (about 1 for training scans) goes under ``output_key``; beyond ``limit``, or where no brain is found, a
    line is added to the list under ``flags``.

    Args:
        keys: the scan (1, X, Y, Z) in HU; one key.
        reference: mean, deviation and precision of the training scans; None compares nothing.
        limit: distance beyond which a scan is flagged.
        output_key: gets the distance.
        allow_missing_keys: do nothing where the key is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference: Mapping[str, Sequence[Any]] | None = None,
        limit: float = UNLIKE,
        output_key: str = "unusual",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference = None if reference is None else Reference(**reference)
        self.limit, self.output_key = limit, output_key

    def described(self) -> dict[str, Any]:
        """For :func:`ichseg.provenance.describe`; the numbers of a reference would fill pages."""
        reference = None if self.reference is None else value_hash(vars(self.reference))
        return {"keys": self.keys, "reference": reference, "limit": self.limit, "output_key": self.output_key}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item) if self.reference is not None else ():
            image = item[key]
            axis = volume_slice_axis(image)
            pixel = 1.0
            if isinstance(image, MetaTensor):
                pixel = float(np.delete(spacing_mm(np.asarray(image.affine)), axis).mean())
            measured = appearance(plain(image)[0].movedim(axis, 0).float().cpu().numpy(), pixel)
            flag = NO_BRAIN
            if measured is not None and self.reference is not None:
                item[self.output_key] = distance = round(self.reference.distance(measured), 2)
                flag = f"unlike the training scans: {self.reference.told(measured)}" if distance > self.limit else ""
            if flag:
                item["flags"] = [*item.get("flags", ()), flag]
        return item
