"""Where the head, the brain and the midline are, and how bright bone makes the brain, without a network."""

from ichseg.anatomy.appearance import Reference, appearance
from ichseg.anatomy.brain import intracranial_mask
from ichseg.anatomy.cupping import cupping
from ichseg.anatomy.extent import NOT_A_HEAD, extent_doubts
from ichseg.anatomy.head import head_box
from ichseg.anatomy.midline import Plane, mid_sagittal_plane, midline_of
from ichseg.anatomy.plausible import mask_doubts
from ichseg.anatomy.shell import on_grid, shell_of

__all__ = [
    "NOT_A_HEAD",
    "Plane",
    "Reference",
    "appearance",
    "cupping",
    "extent_doubts",
    "head_box",
    "intracranial_mask",
    "mask_doubts",
    "mid_sagittal_plane",
    "midline_of",
    "on_grid",
    "shell_of",
]
