"""Hemorrhage of known shape in real scans without hemorrhage."""

from ichseg.data.implants.benchmark import prepare_implants
from ichseg.data.implants.implant import SHARES, implant_hemorrhage, implant_volume

__all__ = ["SHARES", "implant_hemorrhage", "implant_volume", "prepare_implants"]
