"""Dense conditional random field in plain torch, with pydensecrf as a second opinion."""

from ichseg.crf.dense import BACKENDS, DenseCRF, score_probabilities

__all__ = ["BACKENDS", "DenseCRF", "score_probabilities"]
