"""A part of a folder's cases, so that several runs can share one output folder."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ichseg.errors import IchsegError


class _Array(NamedTuple):
    """How a scheduler tells a job its place in an array.

    ``first`` is a variable or the number itself, ``last`` and ``size`` (how many jobs there are) are variables.
    """

    name: str
    place: str
    first: str | int
    last: str | None = None
    size: str | None = None


_ARRAYS = (
    _Array("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"),
    _Array("Grid Engine", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST"),
    _Array("LSF", "LSB_JOBINDEX", 1, "LSB_JOBINDEX_END"),
    _Array("PBS", "PBS_ARRAY_INDEX", 1),
    _Array("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", 0, size="AWS_BATCH_JOB_ARRAY_SIZE"),
    _Array("Google Batch", "BATCH_TASK_INDEX", 0, size="BATCH_TASK_COUNT"),
    _Array("Kubernetes", "JOB_COMPLETION_INDEX", 0),
)
AUTO = "auto"


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``. A case belongs to a part by its name alone: a growing folder changes nothing."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] | None = None) -> Shard:
        """``"2/4"`` is the second of four; None is everything; ``"auto"`` is the place of this job in its array.

        ``"auto/16"`` says how many parts there are, for schedulers that do not (Kubernetes, PBS), and for running some
        of 16 jobs again. Arrays are numbered from 1, or from 0 where the scheduler has no choice.

        Args:
            text: see above.
            environment: variables of the job; those of this process if None.

        Raises:
            IchsegError: anything else, or no array that can be told.
        """
        if text is None:
            return cls()
        found = re.fullmatch(rf"\s*(\d+|{AUTO})\s*/\s*(\d+)\s*", str(text))
        if str(text).strip() == AUTO or (found and found[1] == AUTO):
            count = int(found[2]) if found else None
            return cls._of_array(str(text).strip(), count, os.environ if environment is None else environment)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise IchsegError(f"shard '{text}': write K/N with 1 <= K <= N, such as 1/4, or auto in a job array")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def _of_array(cls, text: str, count: int | None, environment: Mapping[str, str]) -> Shard:
        array = next((one for one in _ARRAYS if environment.get(one.place, "").isdigit()), None)
        if array is None:
            raise IchsegError(f"shard '{text}': not in a job array (not set: {', '.join(a.place for a in _ARRAYS)})")

        def number(of: str | int | None) -> int | None:
            value = environment.get(of, "") if isinstance(of, str) else str(of)
            return int(value) if value.isdigit() else None

        index, first, last = int(environment[array.place]), number(array.first), number(array.last)
        if count is not None:
            # Running some jobs again changes what the scheduler says of first and last, but not their own numbers.
            place = index + 1 if array.first == 0 else index
        else:
            if isinstance(array.first, str) and first not in (None, 1):
                # Run again alone, a job of such an array would be another part, or everything.
                raise IchsegError(
                    f"shard '{text}': the {array.name} array begins with {first}; number arrays from 1, and write "
                    f"{AUTO}/N with all N parts to run some of them again"
                )
            place = index + 1 - (1 if first is None else first)
            count = number(array.size)
            if last is not None and first is not None:
                if count not in (None, last - first + 1):
                    raise IchsegError(
                        f"shard '{text}': the {array.name} array has gaps; write {AUTO}/N with all N parts"
                    )
                count = last - first + 1
            if count is None:
                raise IchsegError(f"shard '{text}': {array.name} does not say how many jobs there are; write {AUTO}/N")
        if not 1 <= place <= count:
            raise IchsegError(f"shard '{text}': {array.place} is {index}, which is none of {count} parts")
        return cls(place, count)

    def holds(self, case: str) -> bool:
        """True if the case is in this part."""
        return zlib.crc32(case.encode("utf-8", "surrogatepass")) % self.count == self.number - 1

    @property
    def suffix(self) -> str:
        """What the names of this part's tables get: nothing for everything, ``-2of4`` for a part."""
        return "" if self.count == 1 else f"-{self.number}of{self.count}"
