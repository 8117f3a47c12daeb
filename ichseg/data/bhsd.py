"""BHSD: 192 head CT scans with five-subtype masks -> an ichseg data folder.

Wu et al., MLMI 2023, arXiv 2308.11298. Scan names are ``ID_<patient>_ID_<study>.nii.gz``; repeated studies of
one patient share the first token and always share a fold (decision D1).
"""

from __future__ import annotations

from functools import partial

from ichseg.data.masked_release import MaskedRelease, prepare_masked
from ichseg.data.subtypes import SUBTYPES


def patient_of(name: str) -> str:
    """``ID_0237f3c9_ID_40015688b9`` -> ``ID_0237f3c9``."""
    return "_".join(name.split("_")[:2])


BHSD = MaskedRelease(
    name="BHSD",
    license="MIT",
    doi="10.48550/arXiv.2308.11298",
    roots=("", "label_192"),
    images=("images", "imagesTr"),
    masks=("ground truths", "ground_truths", "labels", "labelsTr", "masks"),
    codes=SUBTYPES,
    patient=patient_of,
)
prepare_bhsd = partial(prepare_masked, BHSD)
