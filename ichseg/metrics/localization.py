"""How many lesions were found, missed, and falsely detected."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

CONNECTIVITIES = {4: (2, 1), 8: (2, 2), 6: (3, 1), 18: (3, 2), 26: (3, 3)}


class LesionLocalization:
    """Correct (CL), missed (ML) and false-positive (FPL) lesion rates, summed over everything shown.

    ``CL = found / true``, ``ML = 1 - CL``, ``FPL = false / predicted`` (decision D18). A true lesion is
    found if one pixel of the prediction touches it; a predicted lesion is false if it touches no true pixel.
    One huge blob gets CL 1 and FPL 0, so read them beside the IoU.

    Args:
        connectivity: 4 or 8 for slices, 6, 18 or 26 for volumes.
    """

    def __init__(self, connectivity: int = 8) -> None:
        if connectivity not in CONNECTIVITIES:
            raise ValueError(f"connectivity must be one of {sorted(CONNECTIVITIES)}, not {connectivity}")
        self.connectivity = connectivity
        self.ndim, rank = CONNECTIVITIES[connectivity]
        self.structure = ndimage.generate_binary_structure(self.ndim, rank)
        self.true = self.found = self.predicted = self.false = 0

    def update(self, prediction: ArrayLike, target: ArrayLike) -> None:
        """Add one binary slice (H, W) or volume (X, Y, Z), or a stack of them with one more leading axis."""
        p, t = np.asarray(prediction) > 0, np.asarray(target) > 0
        if p.shape != t.shape or p.ndim not in (self.ndim, self.ndim + 1):
            raise ValueError(f"expected two {self.ndim}-D masks of the same shape, not {p.shape} and {t.shape}")
        if p.ndim == self.ndim + 1:
            for one, truth in zip(p, t, strict=True):
                self.update(one, truth)
            return
        true_parts, true = ndimage.label(t, self.structure)
        parts, predicted = ndimage.label(p, self.structure)
        self.true += true
        self.predicted += predicted
        self.found += len(np.unique(true_parts[p & t]))
        self.false += predicted - len(np.unique(parts[p & t]))

    def add(self, other: LesionLocalization) -> None:
        """Add what another one has counted."""
        self.true += other.true
        self.found += other.found
        self.predicted += other.predicted
        self.false += other.false

    def counts(self) -> dict[str, int]:
        """What the rates are made of."""
        return {
            "true_lesions": self.true,
            "found_lesions": self.found,
            "predicted_lesions": self.predicted,
            "false_lesions": self.false,
        }

    def compute(self) -> dict[str, float]:
        """``{"CL", "ML", "FPL"}``; NaN where there is nothing to divide by."""
        found = self.found / self.true if self.true else float("nan")
        false = self.false / self.predicted if self.predicted else float("nan")
        return {"CL": found, "ML": 1 - found, "FPL": false}
