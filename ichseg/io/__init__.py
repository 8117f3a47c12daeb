"""Files: NIfTI in and out, header checks, atomic writes."""

from ichseg.io.atomic import atomic_path, staged_folder, write_text
from ichseg.io.folder import find_nifti, find_scans
from ichseg.io.geometry import USUAL_STEP_MM, same_grid, slice_axis, spacing_mm
from ichseg.io.hounsfield import lost_intercept
from ichseg.io.nifti import SIZE_LIMIT, read_header, scan_name
from ichseg.io.tables import markdown_table, write_csv, write_json
from ichseg.io.volume import (
    SPACING_UNKNOWN,
    Volume,
    checked_volume,
    header_affine,
    header_doubts,
    image_like,
    nifti_image,
    read_mask,
    read_volume,
    save_image,
    write_like,
    write_volume,
)

__all__ = [
    "SIZE_LIMIT",
    "SPACING_UNKNOWN",
    "USUAL_STEP_MM",
    "Volume",
    "atomic_path",
    "checked_volume",
    "find_nifti",
    "find_scans",
    "header_affine",
    "header_doubts",
    "image_like",
    "lost_intercept",
    "markdown_table",
    "nifti_image",
    "read_header",
    "read_mask",
    "read_volume",
    "same_grid",
    "save_image",
    "scan_name",
    "slice_axis",
    "spacing_mm",
    "staged_folder",
    "write_csv",
    "write_json",
    "write_like",
    "write_text",
    "write_volume",
]
