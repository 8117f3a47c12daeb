"""A part of a folder's cases, so that several runs can share one output folder."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from ichseg.errors import IchsegError


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``. A case belongs to a part by its name alone: a growing folder changes nothing."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """``"2/4"`` is the second of four; None is everything.

        Raises:
            IchsegError: anything else.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(text))
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise IchsegError(f"shard '{text}': write K/N with 1 <= K <= N, such as 1/4")
        return cls(int(found[1]), int(found[2]))

    def holds(self, case: str) -> bool:
        """True if the case is in this part."""
        return zlib.crc32(case.encode("utf-8", "surrogatepass")) % self.count == self.number - 1

    @property
    def suffix(self) -> str:
        """What the names of this part's tables get: nothing for everything, ``-2of4`` for a part."""
        return "" if self.count == 1 else f"-{self.number}of{self.count}"
