"""Dense conditional random field in plain torch, with pydensecrf as a second opinion."""

from ichseg.crf.dense import BACKENDS, DenseCRF

__all__ = ["BACKENDS", "DenseCRF"]
