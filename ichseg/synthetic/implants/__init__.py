"""Hemorrhage of known shape in real scans without hemorrhage."""

from ichseg.synthetic.implants.benchmark import prepare_implants
from ichseg.synthetic.implants.fields import field_volume
from ichseg.synthetic.implants.implant import SHARES, implant_hemorrhage, implant_volume
from ichseg.synthetic.implants.lookalikes import LOOKALIKES, draw_lookalikes
from ichseg.synthetic.implants.pool import ImplantPool, implant_pool
from ichseg.synthetic.implants.surgery import draw_surgery

__all__ = [
    "LOOKALIKES",
    "SHARES",
    "ImplantPool",
    "draw_lookalikes",
    "draw_surgery",
    "field_volume",
    "implant_hemorrhage",
    "implant_pool",
    "implant_volume",
    "prepare_implants",
]
