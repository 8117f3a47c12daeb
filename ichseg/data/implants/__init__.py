"""Hemorrhage of known shape in real scans without hemorrhage."""

from ichseg.data.implants.benchmark import prepare_implants
from ichseg.data.implants.fields import field_volume
from ichseg.data.implants.implant import SHARES, implant_hemorrhage, implant_volume
from ichseg.data.implants.lookalikes import LOOKALIKES, draw_lookalikes

__all__ = [
    "LOOKALIKES",
    "SHARES",
    "draw_lookalikes",
    "field_volume",
    "implant_hemorrhage",
    "implant_volume",
    "prepare_implants",
]
