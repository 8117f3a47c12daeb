"""ichseg: outline intracranial hemorrhage on head CT from slice-level labels alone.

The packages follow one scan from file to mask: ``io``, ``data``, ``networks``, ``cam``, ``context``, ``crf``,
``metrics``, ``transforms``, ``training``, ``inference``, ``folder``, ``report``, ``evaluation``. ``method`` has the
published method on one page.
Importing ``ichseg`` itself imports neither torch nor MONAI; :func:`segment` and :func:`measure` do when they are used.
"""

from typing import TYPE_CHECKING

import ichseg.moved  # noqa: F401
from ichseg.errors import IchsegError, ScanError
from ichseg.late import imported_late
from ichseg.version import __version__

if TYPE_CHECKING:
    from ichseg.folder.measure_masks import measure
    from ichseg.inference.segmenter import Segmenter, segment
else:
    __getattr__ = imported_late(
        __name__,
        {"Segmenter": "inference.segmenter", "measure": "folder.measure_masks", "segment": "inference.segmenter"},
    )

__all__ = ["IchsegError", "ScanError", "Segmenter", "__version__", "measure", "segment"]
