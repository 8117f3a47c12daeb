"""From images to stacks: what belongs together, in which order, where it lies, and what is no scan of a head."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ichseg.dicom.headers import CT, ENHANCED_CT, Instance
from ichseg.io.geometry import LPS

# The fewest slices of a stack that is segmented without having been named.
FEWEST_SLICES = 5
# Cosine between the normal of slices and the axis from foot to head, from which on slices are axial: 45 degrees.
AXIAL = 0.7
SAME_PLACE_MM = 0.02
UNEVEN = 0.05  # of the median distance: distances that differ by more are not equal
SIDEWAYS_MM = 1.0
# Images of one stack differ by no more than this in the direction cosines, and by this share in their spacing.
PARALLEL, SAME_SPACING = 0.01, 0.002
WIDE_GAP = 3.0  # times the usual step: what lies between is not counted

PROJECTIONS = {"LOCALIZER": "a localizer", "SCOUT": "a localizer", "PROJECTION IMAGE": "a projection",
               "MIP": "a maximum intensity projection", "MINIP": "a minimum intensity projection",
               "DOSE_INFO": "a dose report", "DOSE INFO": "a dose report", "SCREEN SAVE": "a screenshot",
               "PERFUSION": "a perfusion map", "CT_SOM5 TOP": "a localizer", "CT_SOM7 TOP": "a localizer",
               "VRT": "a rendering", "VOLREN": "a rendering", "ROTATION": "a rendering"}  # fmt: skip
OTHER_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.88": "a structured report",
    "1.2.840.10008.5.1.4.1.1.104": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.66": "a segmentation or raw data",
    "1.2.840.10008.5.1.4.1.1.11": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.481": "a radiotherapy object",
}


@dataclass(frozen=True)
class Stack:
    """Images of one series that lie above one another.

    Attributes:
        instances: from the lowest along the normal to the highest; row direction x column direction is the normal.
        skip: why it is no scan that is segmented; empty for one that may be.
        doubts: one short sentence per reason to look at it.
        notes: one per fact that is good to know.
        slabs_mm: how much of the normal each slice stands for: up to the middle between it and its neighbors.
    """

    instances: tuple[Instance, ...]
    skip: str = ""
    doubts: tuple[str, ...] = field(default_factory=tuple)
    notes: tuple[str, ...] = field(default_factory=tuple)
    slabs_mm: tuple[float, ...] = field(default_factory=tuple)

    @property
    def first(self) -> Instance:
        return self.instances[0]

    @property
    def step_mm(self) -> float:
        """The median distance of slices; the thickness of a single one, or 0."""
        return float(np.median(self.slabs_mm)) if self.slabs_mm else self.first.thickness or 0.0

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel-to-RAS matrix in mm of (columns, rows, slices); slices at their mean distance.

        Under gantry tilt the third column is not at right angles to the others: voxels stay where they are.
        """
        first, last, count = self.instances[0], self.instances[-1], len(self.instances)
        across, down = _directions(first)
        step = np.cross(across, down) * (first.thickness or 1.0)
        if count > 1:
            step = np.subtract(last.position, first.position) / (count - 1)
        matrix = np.eye(4)
        matrix[:3, 0], matrix[:3, 1] = across * first.spacing[1], down * first.spacing[0]
        matrix[:3, 2], matrix[:3, 3] = step, first.position
        return LPS @ matrix


def stacks(instances: Iterable[Instance]) -> list[Stack]:
    """Group images by series, split series by what makes stacks, and say of each what it is.

    A series is split by orientation, size, spacing, kernel, and kind of image; where positions still repeat, by
    acquisition, or else by the order of the repetitions.
    """
    groups: defaultdict[Any, list[list[Instance]]] = defaultdict(list)
    for one in instances:
        alike = groups[one.study, one.series, one.rows, one.columns, one.kernel, one.image_type[2:3], one.rescale_type]
        group = next((images for images in alike if _parallel(images[0], one)), None)
        if group is None:
            alike.append([one])
        else:
            group.append(one)
    found = []
    for images in (group for alike in groups.values() for group in alike):
        images, copies = _without_copies(images)
        why = _no_scan(images[0])
        if why:
            found.append(Stack(tuple(sorted(images, key=_by_number)), why))
            continue
        placed = [one for one in images if len(one.position) == 3]
        if not placed:
            why = "no ImagePositionPatient in the header: the order of its slices is unknown"
            found.append(Stack(tuple(sorted(images, key=_by_number)), why))
            continue
        lost = len(images) - len(placed)
        doubts = [f"left out {lost} image{'s' if lost > 1 else ''} without ImagePositionPatient"] if lost else []
        normal = _normal(placed[0])  # one for all: its own would let slices change places
        for part in _apart(sorted(placed, key=lambda one: _height(one, normal)), normal):
            found.append(_described(part, normal, copies, doubts))
    return sorted(found, key=lambda s: (s.first.study, s.first.series_number or 0, s.first.series, s.first.number or 0))


def _no_scan(one: Instance) -> str:
    """Why images like this one are not segmented, by their header alone."""
    for prefix, what in OTHER_CLASSES.items():
        if one.sop_class == prefix or one.sop_class.startswith(f"{prefix}."):
            return what
    if one.modality != "CT":
        return f"{one.modality or 'no modality'}, not CT"
    for kind in one.image_type:
        if kind in PROJECTIONS:
            return PROJECTIONS[kind]
    if one.sop_class not in (CT, *ENHANCED_CT):
        return "not a CT image"
    if one.samples != 1:
        return "a color picture"
    if one.rescale_type not in ("", "HU", "US"):
        return f"values in {one.rescale_type.lower()}, not HU"
    if one.rows < 2 or one.columns < 2:
        return "no rows or columns in the header"
    for name, values, count in (("ImageOrientationPatient", one.orientation, 6), ("PixelSpacing", one.spacing, 2)):
        if len(values) != count:
            return f"no {name} in the header: pixel positions are unknown"
    if min(one.spacing) <= 0:
        return "a PixelSpacing of 0 in the header"
    across, down = np.reshape(one.orientation, (2, 3))
    if min(np.linalg.norm(across), np.linalg.norm(down)) < 0.5 or abs(across @ down) > 0.1:
        return "an invalid ImageOrientationPatient in the header"
    normal = _normal(one)
    if abs(normal[2]) < AXIAL:
        return f"{'sagittal' if abs(normal[0]) > abs(normal[1]) else 'coronal'} slices, not axial"
    return ""


def _parallel(one: Instance, other: Instance) -> bool:
    """True if two images may belong to one stack by how they lie and how large their pixels are."""
    if len(one.orientation) != len(other.orientation) or len(one.spacing) != len(other.spacing):
        return False
    turned = np.abs(np.subtract(one.orientation, other.orientation)).max(initial=0.0) > PARALLEL
    scaled = np.abs(np.subtract(one.spacing, other.spacing)).max(initial=0.0) > SAME_SPACING * max(
        one.spacing, default=0
    )
    return not (turned or scaled)


def _apart(images: Sequence[Instance], normal: np.ndarray) -> list[list[Instance]]:
    """Images in order of height, split so that no place is taken twice and no two acquisitions are mixed."""
    by_acquisition: defaultdict[int | None, list[Instance]] = defaultdict(list)
    for one in images:
        by_acquisition[one.acquisition].append(one)
    parts = list(by_acquisition.values())
    whole = len(parts) > 1 and min(map(len, parts)) >= FEWEST_SLICES  # some scanners number every slice
    if (
        whole
        and not any(_repeats(part, normal) for part in parts)
        and (_repeats(images, normal) or _mixed(parts, normal))
    ):
        return parts
    if not _repeats(images, normal):
        return [list(images)]
    parts = []
    place, turn = np.nan, 0
    for one in sorted(images, key=lambda i: (round(_height(i, normal) / SAME_PLACE_MM), i.number or 0)):
        turn = turn + 1 if abs(_height(one, normal) - place) < SAME_PLACE_MM else 0
        place = _height(one, normal)
        if turn == len(parts):
            parts.append([])
        parts[turn].append(one)
    return parts


def _mixed(parts: Sequence[Sequence[Instance]], normal: np.ndarray) -> bool:
    """True if two acquisitions cover the same heights, by more than the slices at their ends."""
    ranges = []
    for part in parts:
        heights = [_height(one, normal) for one in part]
        step = float(np.median(np.diff(heights)))
        ranges.append((heights[0] + 2 * step, heights[-1] - 2 * step))
    ranges.sort()
    return any(upper > lower for (_, upper), (lower, _) in pairwise(ranges))


def _repeats(images: Sequence[Instance], normal: np.ndarray) -> bool:
    return bool((np.diff([_height(one, normal) for one in images]) < SAME_PLACE_MM).any())


def _described(images: Sequence[Instance], normal: np.ndarray, copies: int, doubts: Sequence[str]) -> Stack:
    """A stack with its slabs, and what is doubtful about it."""
    heights = np.array([_height(one, normal) for one in images])
    steps = np.diff(heights)
    doubts, notes = list(doubts), []
    if copies:
        notes.append(f"ignored {copies} duplicate image{'s' if copies > 1 else ''}")
    tilt = _tilt_degrees(images)
    if tilt > 0.5:
        notes.append(f"gantry tilt of {tilt:.1f} degrees")
    if len(steps):
        doubts += _doubts_of_steps(images, steps)
        expected = np.array(images[0].position) + np.outer(
            (heights - heights[0]) / (heights[-1] - heights[0]), np.subtract(images[-1].position, images[0].position)
        )
        if np.linalg.norm(np.array([one.position for one in images]) - expected, axis=1).max() > SIDEWAYS_MM:
            doubts.append("slices are shifted in-plane relative to one another")
    if any(one.contrast for one in images):
        notes.append("a contrast agent is named in the header")
    if any(one.photometric == "MONOCHROME1" for one in images):
        doubts.append("MONOCHROME1: gray values may be inverted")
    if len(steps):
        usual = float(np.median(steps))
        steps = np.where(steps > WIDE_GAP * usual, usual, steps)
    half = (
        np.concatenate([steps[:1], steps, steps[-1:]]) / 2 if len(steps) else np.full(2, (images[0].thickness or 1) / 2)
    )
    slabs = tuple(float(s) for s in half[:-1] + half[1:])
    return Stack(tuple(images), "", tuple(doubts), tuple(notes), slabs)


def _doubts_of_steps(images: Sequence[Instance], steps: np.ndarray) -> list[str]:
    """Slices that are missing, or not equally far apart."""
    usual = float(np.median(steps))
    if np.abs(steps - usual).max() <= max(UNEVEN * usual, SAME_PLACE_MM):
        return []
    times = steps / usual
    whole = np.rint(times)
    if np.abs(times - whole).max() <= UNEVEN and whole.min() >= 1:
        gaps = np.flatnonzero(whole > 1)
        missing = int((whole[gaps] - 1).sum())
        after = images[int(gaps[0])]
        name = f"image {after.number}" if after.number is not None else after.source.name
        told = f"{missing} slice{'s' if missing > 1 else ''} missing after {name}"
        return [f"{told}; what lies in the gap is not counted" if whole.max() > WIDE_GAP else told]
    gaps = np.flatnonzero(steps > WIDE_GAP * usual)
    if len(gaps):
        return [f"a gap of {steps[gaps[0]]:.0f} mm between slices; what lies in it is not counted"]
    return [f"slices are {steps.min():.1f} to {steps.max():.1f} mm apart; volumes take this into account"]


def _without_copies(images: Sequence[Instance]) -> tuple[list[Instance], int]:
    """Images without repetitions of the same object, and how many there were."""
    kept = {(one.uid, one.frame, one.position): one for one in reversed(images)}
    return list(reversed(kept.values())), len(images) - len(kept)


def _directions(one: Instance) -> np.ndarray:
    directions = np.reshape(np.array(one.orientation, dtype=float), (2, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _normal(one: Instance) -> np.ndarray:
    normal = np.cross(*_directions(one))
    return normal / np.linalg.norm(normal)


def _height(one: Instance, normal: np.ndarray) -> float:
    """mm along the normal."""
    return float(normal @ one.position)


def _by_number(one: Instance) -> tuple[int, str, int]:
    return one.number or 0, str(one.source), one.frame or 0


def _tilt_degrees(images: Sequence[Instance]) -> float:
    """Angle between the normal of the slices and the line through their first pixels; of one slice, the header's."""
    line = np.subtract(images[-1].position, images[0].position)
    if not np.linalg.norm(line):
        return abs(images[0].tilt or 0.0)
    cosine = abs(_normal(images[0]) @ line) / np.linalg.norm(line)
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def series_title(stack: Stack) -> str:
    """For messages: ``series 3``."""
    number = stack.first.series_number
    return f"series {number}" if number is not None else "a series without a number"
