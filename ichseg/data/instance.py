"""INSTANCE 2022: 100 scans with masks of hemorrhage, the training part of the challenge -> an ichseg data folder.

Li et al., arXiv 2301.03281. Scans and masks are ``data/<number>.nii.gz`` and ``label/<number>.nii.gz``; one scan a
patient. The masks of the validation and test parts are not public.
"""

from __future__ import annotations

from functools import partial

from ichseg.data.masked_release import MaskedRelease, prepare_masked

INSTANCE = MaskedRelease(
    name="INSTANCE 2022",
    license="by agreement with the organizers",
    doi="10.48550/arXiv.2301.03281",
    roots=("", "train_2", "train"),
    images=("data",),
    masks=("label",),
    codes={1: None},
    patient=lambda name: name,
)
prepare_instance = partial(prepare_masked, INSTANCE)
