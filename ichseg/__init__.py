"""ichseg: outline intracranial hemorrhage on head CT from slice-level labels alone.

The rooms of the package follow one scan from file to mask: ``io``, ``data``, ``networks``, ``cam``,
``context``, ``crf``, ``metrics``, ``transforms``, ``training``, ``inference``, ``report``.
Importing ``ichseg`` itself imports neither torch nor MONAI.
"""

from ichseg.errors import IchsegError, ScanError
from ichseg.version import __version__

__all__ = ["IchsegError", "ScanError", "__version__"]
