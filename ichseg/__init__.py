"""ichseg: outline intracranial hemorrhage on head CT from slice-level labels alone.

The rooms of the package follow one scan from file to mask: ``io``, ``data``, ``networks``, ``cam``,
``context``, ``crf``, ``metrics``, ``transforms``, ``training``, ``inference``, ``report``.
Importing ``ichseg`` itself imports neither torch nor MONAI; :func:`segment` and :func:`measure` do when they are used.
"""

from typing import TYPE_CHECKING, Any

from ichseg.errors import IchsegError, ScanError
from ichseg.version import __version__

if TYPE_CHECKING:
    from ichseg.inference.call import Segmenter, segment
    from ichseg.inference.measuring import measure

__all__ = ["IchsegError", "ScanError", "Segmenter", "__version__", "measure", "segment"]


def __getattr__(name: str) -> Any:
    if name in ("Segmenter", "measure", "segment"):
        from ichseg.inference import call, measuring

        return getattr(measuring if name == "measure" else call, name)
    raise AttributeError(f"module 'ichseg' has no attribute '{name}'")
