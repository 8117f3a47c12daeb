"""Which series of a study is segmented: axial, a soft kernel, slices of 2.5 to 6 mm, the whole head."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ichseg.dicom.stacks import FEWEST_SLICES, Stack, series_title
from ichseg.errors import IchsegError

BEST, ALL = "best", "all"
THICKNESS_MM = (2.5, 6.0)
WIDE_WINDOW = 1500.0  # HU; a series that is shown like this was made for bone or lung
SHARP_KERNELS = re.compile(r"BONE|EDGE|LUNG|SHARP|DETAIL")
SHARP_WORDS = re.compile(r"\b(BONE|EDGE|LUNG|SHARP|KNOCHEN|HUESO|OSSO|OSSEUX|OS|PULMO)\b(?! REMOV)")
# Number in the name of a kernel from which on it is sharp: Siemens' Hr68s, J70h, B60f.
SIEMENS = re.compile(r"^[BHIJQTU][A-Z]{0,2}(\d\d)")
SIEMENS_SHARP = 55
# Canon and Toshiba: FC30 to 39 and 80 to 89 are for bone, FC50 to 59 for lungs.
CANON = re.compile(r"^FC(\d\d)")
CANON_SHARP = (3, 5, 8)
PHILIPS_SHARP = {"D", "E", "L", "YC", "YD", "YE"}
DERIVED = {"MPR", "REFORMATTED", "RESAMPLED", "DERIVED"}
# In the languages of the consoles.
HEAD = ("HEAD", "BRAIN", "SKULL", "NEURO", "CEREBR", "ENCEPH", "ENCEF", "CRANI", "CRANE", "KRANI", "SCHADEL", "KOPF",
        "TETE", "TESTA", "CABEZA", "CABECA", "HOOFD", "HUVUD", "HOVED", "HODE", "GLOWA", "HLAVA")  # fmt: skip


def series_name(stack: Stack) -> str:
    """The number of a series, or its identifier where it has none."""
    number = stack.first.series_number
    return stack.first.series if number is None else str(number)


def choose(found: Sequence[Stack], rule: str = BEST) -> list[Stack]:
    """The same stacks; those that are not to be segmented say why.

    Args:
        found: of any number of studies.
        rule: ``"best"``: one of each study; ``"all"``: all that may be scans of a head; or a SeriesNumber or
            SeriesInstanceUID.

    Raises:
        IchsegError: no series has this number or identifier.
    """
    found, rule = [_few(stack) for stack in found], str(rule)  # YAML takes a number for one
    if rule not in (BEST, ALL):
        chosen = {id(s) for s in found if rule in (s.first.series, str(s.first.series_number))}
        if not chosen:
            there = ", ".join(sorted({series_name(s) for s in found})) or "none"
            raise IchsegError(f"--series {rule}: no series has this number or SeriesInstanceUID; found: {there}")
        return [
            s if id(s) in chosen or s.skip else replace(s, skip=f"not the series asked for ({rule})") for s in found
        ]
    found = [_of_the_head(stack) for stack in found]
    if rule == ALL:
        return found
    studies: defaultdict[str, list[Stack]] = defaultdict(list)
    for stack in found:
        if not stack.skip:
            studies[_study_of(stack)].append(stack)
    better = {study: min(candidates, key=_rank) for study, candidates in studies.items()}
    result = []
    for stack in found:
        best = better.get(_study_of(stack))
        if stack.skip or best is None or stack is best:
            result.append(stack)
        else:
            why = f"{_difference(stack, best)}; {series_title(best)} of the same study is segmented"
            result.append(replace(stack, skip=why))
    return result


def is_sharp(stack: Stack) -> bool:
    """True for a kernel made for bone or lung, by its name, the description of the series, or its window."""
    one = stack.first
    if SHARP_KERNELS.search(one.kernel) or SHARP_WORDS.search(one.description.upper()):
        return True
    if found := CANON.match(one.kernel):
        return int(found[1][0]) in CANON_SHARP
    if found := SIEMENS.match(one.kernel):
        return int(found[1]) >= SIEMENS_SHARP
    if one.kernel in PHILIPS_SHARP:
        return True
    return one.window_width is not None and one.window_width >= WIDE_WINDOW


def is_derived(stack: Stack) -> bool:
    """True for slices that were computed from other slices."""
    return bool(DERIVED & set(stack.first.image_type))


def _few(stack: Stack) -> Stack:
    if stack.skip or len(stack.instances) >= FEWEST_SLICES:
        return stack
    count = len(stack.instances)
    return replace(stack, skip=f"only {count} slice{'s' if count > 1 else ''}")


def _of_the_head(stack: Stack) -> Stack:
    if stack.skip or not _elsewhere(stack):
        return stack
    return replace(stack, skip=f"not the head, according to the header ({stack.first.body_part.lower()})")


def _study_of(stack: Stack) -> str:
    return stack.first.study or stack.first.series


def _rank(stack: Stack) -> tuple[int | float, ...]:
    """Smaller is better."""
    one, step = stack.first, stack.step_mm
    low, high = THICKNESS_MM
    height = sum(stack.slabs_mm)
    return (
        is_sharp(stack),
        one.contrast,
        height < 80,  # mm: less than most of a brain
        0 if low <= step <= high else 1 if step < low else 2,
        is_derived(stack),
        any("missing" in doubt for doubt in stack.doubts),
        step if step < low else 0,  # the thinnest, where all are thin
        -round(height),
        one.series_number or 0,
    )


def _elsewhere(stack: Stack) -> bool:
    """True if the header names a part of the body other than the head."""
    return bool(stack.first.body_part) and not any(word in stack.first.body_part for word in HEAD)


def _difference(stack: Stack, best: Stack) -> str:
    """What speaks against a series, in a few words."""
    low, high = THICKNESS_MM
    if is_sharp(stack) and not is_sharp(best):
        return f"a sharp kernel ({stack.first.kernel or 'by its description'})"
    if stack.first.contrast and not best.first.contrast:
        return "with contrast agent"
    if not low <= stack.step_mm <= high and low <= best.step_mm <= high:
        return f"slices of {stack.step_mm:.1f} mm"
    if is_derived(stack) and not is_derived(best):
        return "computed from other slices"
    return "another series of the head"
