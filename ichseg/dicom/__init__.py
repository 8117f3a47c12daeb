"""DICOM: series of head CT as scans, and results as DICOM objects. Needs ``pip install "ichseg[dicom]"``."""

from ichseg.dicom.choice import ALL, BEST, choose
from ichseg.dicom.extra import dicom_package
from ichseg.dicom.files import Source, find_sources
from ichseg.dicom.headers import Instance, read_dataset, read_instances
from ichseg.dicom.listing import SCANS, list_series, stack_of, write_scan
from ichseg.dicom.pixels import read_stack
from ichseg.dicom.stacks import Stack, stacks

__all__ = [
    "ALL",
    "BEST",
    "SCANS",
    "Instance",
    "Source",
    "Stack",
    "choose",
    "dicom_package",
    "find_sources",
    "has_dicom",
    "list_series",
    "read_dataset",
    "read_instances",
    "read_stack",
    "stack_of",
    "stacks",
    "write_scan",
]
