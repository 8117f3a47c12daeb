"""Do the voxels look like Hounsfield units of a head?

Scale, offset, clipping, padding and inversion are found from where air and soft tissue stand in the histogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichseg.anatomy import NOT_A_HEAD

SOFT_TISSUE_SHARE = 0.04
# Brain in a soft kernel has noise of some HU; a bone kernel has ten times that.
BONE_KERNEL_HU = 25.0
HEAD_MM = (80.0, 700.0)
WIDE_MM = 400.0  # a field of view for more than a head
SLICES_MM = (0.2, 20.0)
# Calcium and metal end below it, even on scanners that go beyond 12 bits.
MOST_HU = 70000.0
# Brain is what most of the soft tissue of a head CT is.
BRAIN_SHARE, BRAIN_HU = 0.02, (18.0, 54.0)
SAMPLE = 2**21  # voxels that are enough to count tissue or to measure noise
AIR_TO_TISSUE = 1035.0  # HU from air to brain
APART = 60.0  # HU by which that distance may differ: air is stored as -1000 or -1024, tissue is brain or muscle
# A window that ends further out keeps all that the shipped network was trained on, or nearly.
CLIP_LOW, CLIP_HIGH = -5.0, 85.0
UNCLIPPED = -200.0  # a scan with lower values has its air
SPIKE_SHARE = 0.002  # of voxels with the very same lowest or highest value: padding, or the end of a window
TALL_PEAK = 0.04  # of the tallest peak: bone is broad and stays below it
BINS = 400
AIR_HU, AIR_SLACK, LOWEST_STORED = -1000.0, 12.0, -1024.0
MOST_PADDING, LOWEST_AIR = -1100.0, -950.0  # between them lies air, if not at its place
FAR_BELOW = 300.0  # what lies as far below brain is neither fat nor water
SCALED_BRAIN = (18.0, 38.0)  # brain, if the lowest value is air
STORED = 500.0  # soft tissue above it, with air 1,000 lower, stands in stored numbers
WRAPPED_HU = -1200.0
# In a head with its skull this share of what is no air is bone, or more.
BONE_SHARE, BONE_ABOVE_BRAIN = 0.025, 60.0
UNRELIABLE = "the mask is unreliable"


@dataclass(frozen=True)
class Grays:
    """Where the gray values of a scan stand.

    Attributes:
        low, high: ends.
        share, level: see :func:`brain_level`.
        tissue: peak of soft tissue.
        air: peak of air at the right distance below it, or None.
        peaks: values of the tall peaks.
        spikes: ends that are one value in many voxels: padding, or the end of a window.
        border: median along the edges of the slices.
        center: median of the middle half of the slices.
    """

    low: float
    high: float
    share: float
    level: float
    tissue: float
    air: float | None
    peaks: tuple[float, ...]
    spikes: tuple[float, ...]
    border: float
    center: float


def _sample(array: np.ndarray) -> np.ndarray:
    """Enough of the voxels, evenly spread."""
    return array.ravel()[:: max(1, round(array.size / SAMPLE))]


def lost_intercept(array: np.ndarray) -> int:
    """1024 where voxels look like stored CT numbers (soft tissue near 1,050, nothing below 0), else 0.

    In Hounsfield units next to nothing of a head lies between 1000 and 1100, a narrow slice of bone; in stored
    numbers all of the brain does.
    """
    return 0 if array.min() < UNCLIPPED else _lost_intercept(_sample(array))


def _lost_intercept(some: np.ndarray) -> int:
    return 1024 if float(((some > 1000) & (some < 1100)).mean()) > SOFT_TISSUE_SHARE else 0


def brain_level(some: np.ndarray, highest: float) -> tuple[float, float]:
    """Share of the voxels between 4 and 96, and the value that is most frequent among them; highest: of all voxels."""
    # What a window has clipped heaps up at its end.
    counts, edges = np.histogram(some[some < highest], np.arange(4, 97, 4))
    smooth = np.convolve(counts, [1, 1, 1], "same")
    return float(counts.sum()) / len(some), float(edges[int(smooth.argmax())]) + 2


def find_grays(array: np.ndarray, some: np.ndarray, ends: tuple[float, float]) -> Grays:
    """Where air, soft tissue, the border and the center of finite voxels (X, Y, Z) stand.

    Of them, ``some`` are enough to count, and ``ends`` are the lowest and the highest. Soft tissue is the highest tall
    peak of the histogram: bone is broad. Padding and the ends of a window are single values: they are not counted as
    peaks, but may be the air.
    """
    low, high = float(some.min()), float(some.max())
    spikes = [end for end in (low, high) if float((some == end).mean()) > SPIKE_SHARE]
    rest = some
    for spike in spikes:
        rest = rest[rest != spike]
    rows, columns, _ = array.shape
    edges = np.concatenate([array[0].ravel(), array[-1].ravel(), array[:, 0].ravel(), array[:, -1].ravel()])
    step = 2 if array.size > SAMPLE else 1  # every other pixel tells where the median stands
    middle = array[rows // 4 : -(rows // 4) or None : step, columns // 4 : -(columns // 4) or None : step]
    border, center = float(np.median(edges)), float(np.median(middle))
    peaks = _peaks(rest) or [center]
    pairs = [(tissue, air) for tissue in peaks for air in (*peaks, *spikes)
             if abs(tissue - air - AIR_TO_TISSUE) < APART]  # fmt: skip
    tissue, air = max(pairs) if pairs else (max(peaks), None)
    return Grays(*ends, *brain_level(some, ends[1]), tissue, air, tuple(peaks), tuple(spikes), border, center)


def _peaks(values: np.ndarray) -> list[float]:
    """Values of the tall peaks of a histogram."""
    if len(values) < BINS:
        return []
    start, end = np.percentile(values, [0.2, 99.5])
    width = (end - start) / BINS
    if width <= 0:
        return [float(start)]
    counts, edges = np.histogram(values, BINS, (start, end))
    smooth = np.pad(ndimage.gaussian_filter1d(counts.astype(float), 1.5), 1)
    peaks = {place: above for place, above in prominent_peaks(smooth) if above >= 1}
    tall = [place for place, above in peaks.items() if above >= TALL_PEAK * max(peaks.values())]
    return [float(edges[place - 1] + width / 2) for place in tall]


def prominent_peaks(heights: np.ndarray) -> list[tuple[int, float]]:
    """Place and prominence of each peak of a curve, as ``scipy.signal.find_peaks`` gives them.

    SciPy's takes half a second to import, which is more than reading a scan. The prominence is the height above the
    higher of two minima, one on each side, each searched up to where the curve exceeds the peak. The middle of a
    plateau is its place; the ends of the curve are not peaks.
    """
    starts = np.flatnonzero(np.diff(heights, prepend=np.nan))
    lasts = np.append(starts[1:], len(heights)) - 1
    levels = heights[starts]
    peaks = []
    for k in range(1, len(levels) - 1):
        level = levels[k]
        if levels[k - 1] < level > levels[k + 1]:
            higher = np.flatnonzero(levels > level)
            before, after = higher[higher < k], higher[higher > k]
            left = levels[before[-1] if len(before) else 0 : k].min()
            right = levels[k + 1 : after[0] + 1 if len(after) else None].min()
            peaks.append((int(starts[k] + lasts[k]) // 2, float(level - max(left, right))))
    return peaks


def intensity_doubts(array: np.ndarray, axis: int = 2) -> tuple[list[str], list[str]]:
    """Why finite voxels (X, Y, Z) may not be Hounsfield units of a head in a soft kernel.

    Returns:
        one short sentence per reason to look at the scan, and per fact that is only good to know.
    """
    low, high = float(array.min()), float(array.max())
    if low == high:
        return [f"every voxel is {low:g}: blank image"], []
    if low >= 0 and high <= 1:
        return [f"values from 0 to 1 are not Hounsfield units; {UNRELIABLE}"], []
    if low >= 0 and high <= 255:
        return [f"values from 0 to 255: an 8-bit image, not Hounsfield units; {UNRELIABLE}"], []
    some = _sample(array)  # once: it copies all voxels where their order is another
    grays = find_grays(array, some, (low, high))
    lost = low >= UNCLIPPED and _lost_intercept(some)
    if not _inverted(grays) and (lost or (grays.air is not None and grays.tissue > STORED)):
        near = f"{round(grays.tissue, -1):,.0f}"
        return [f"no rescale intercept? soft tissue is near {near} instead of 40 HU; {UNRELIABLE}"], []
    level = _level_doubts(grays)
    ends, notes = _end_doubts(grays, known=not level)
    return [*ends, *(level or _content_doubts(array, some, grays, axis))], notes


def _end_doubts(grays: Grays, known: bool) -> tuple[list[str], list[str]]:
    """Where the values end: window, wrong type. Of values that are ``known`` to be HU, the upper end tells too."""
    doubts, notes = [], []
    if grays.high > MOST_HU:
        doubts.append(f"values up to {grays.high:g} are not Hounsfield units")
    if grays.low > CLIP_LOW:
        doubts.append(f"no values below {grays.low:g}: clipped to a window, or not CT")
    elif known and grays.high < CLIP_HIGH:
        doubts.append(f"no values above {grays.high:g}: clipped to a window, or not CT")
    elif grays.low > UNCLIPPED or (known and grays.low > LOWEST_AIR and grays.low in grays.spikes):
        notes.append(f"no values below {grays.low:g} HU: clipped to a window")
    return doubts, notes


def _level_doubts(grays: Grays) -> list[str]:
    """Where air and soft tissue stand: offset, scale, inversion."""
    if _inverted(grays):
        return [f"the border ({grays.border:,.0f}) is brighter than the head: inverted gray values or wrong padding? "
                f"{UNRELIABLE.capitalize()}"]  # fmt: skip
    if grays.share < BRAIN_SHARE:
        where = "" if grays.air is None else f"(soft tissue is near {grays.tissue:,.0f}) "
        return ["almost no voxels have the gray level of brain: not Hounsfield units? "
                f"{where}{UNRELIABLE.capitalize()}"]  # fmt: skip
    if not BRAIN_HU[0] <= grays.level <= BRAIN_HU[1]:
        return [f"soft tissue is near {grays.level:.0f} instead of 35 HU: no brain, contrast, or a wrong rescale "
                f"slope? {UNRELIABLE.capitalize()}"]  # fmt: skip
    return _air_doubts(grays)


def _air_doubts(grays: Grays) -> list[str]:
    """Air of a scan that has it lies near -1,000 HU; brain at the right level does not say so by itself."""
    if grays.low > UNCLIPPED:
        return []
    level = grays.level
    airs = [value for value in (*grays.peaks, *grays.spikes) if value < level - FAR_BELOW]
    if any(abs(air - AIR_HU) <= AIR_SLACK for air in airs) or LOWEST_STORED in grays.spikes:
        return []
    elsewhere = [air for air in airs if air in grays.peaks or MOST_PADDING < air < LOWEST_AIR]
    if elsewhere:
        near = min(elsewhere, key=lambda air: abs(air - AIR_HU))
        return [f"air is near {near:,.0f} instead of -1,000 HU: wrong rescale slope or intercept? "
                f"{UNRELIABLE.capitalize()}"]  # fmt: skip
    scale = -grays.low / 1000
    if grays.low in grays.spikes and SCALED_BRAIN[0] < level / scale < SCALED_BRAIN[1] and abs(scale - 1) > 0.1:
        return [f"no air near -1,000 HU below tissue near {level:.0f}: wrong rescale slope, or padding? "
                f"{UNRELIABLE.capitalize()}"]  # fmt: skip
    return []


def _inverted(grays: Grays) -> bool:
    """True if what surrounds the head is brighter than the head."""
    slack = 0.05 * (grays.high - grays.low)
    return grays.border > grays.center + slack and grays.border > grays.tissue - slack


def _content_doubts(array: np.ndarray, some: np.ndarray, grays: Grays, axis: int) -> list[str]:
    """Noise, a skull that is not there, values that wrapped around."""
    doubts = []
    # Brain is soft tissue whose neighbors are soft tissue: elsewhere neighbors differ for a reason.
    rows = array[:, :: max(1, round(array.size / SAMPLE))]
    first, second = rows[:-1], rows[1:]
    soft = (np.abs(first - 35) < 60) & (np.abs(second - 35) < 60)
    if soft.sum() > 1000 and float(np.std(first[soft] - second[soft])) / np.sqrt(2) > BONE_KERNEL_HU:
        doubts.append("very noisy soft tissue: bone kernel?")
    if _bone_share(some, grays) < BONE_SHARE:
        doubts.append(f"almost no bone: skull-stripped? {UNRELIABLE.capitalize()}")
    if grays.low < WRAPPED_HU and _lies_inside(array < WRAPPED_HU, axis):
        doubts.append(f"values down to {grays.low:,.0f} inside the head: 16-bit overflow from metal?")
    return doubts


def _bone_share(some: np.ndarray, grays: Grays) -> float:
    """Share of bone, or of what a window left of it, in what is no air and no padding."""
    body = some[some > (grays.low if grays.low > UNCLIPPED else UNCLIPPED)]
    bone = min(grays.level + BONE_ABOVE_BRAIN, grays.high - 0.02 * (grays.high - grays.low))
    return float((body >= bone).mean()) if len(body) else 0.0


def _lies_inside(mask: np.ndarray, axis: int) -> bool:
    """True if some of the mask does not reach the edge of the slices, as padding does."""
    pieces, count = ndimage.label(mask)
    sides = [pieces.swapaxes(0, other)[end].ravel() for other in range(3) if other != axis for end in (0, -1)]
    return int(count) > len(set(np.unique(np.concatenate(sides)).tolist()) - {0})


def size_doubts(shape: tuple[int, ...], spacing: tuple[float, float, float], axis: int) -> tuple[list[str], list[str]]:
    """Doubts and notes, if field of view or distance of the slices cannot be, or are not usually, those of a head."""
    doubts, notes = [], []
    if not SLICES_MM[0] <= spacing[axis] <= SLICES_MM[1]:
        doubts.append(f"slices {spacing[axis]:g} mm apart: volumes are unreliable")
    plane = [n * mm for number, (n, mm) in enumerate(zip(shape, spacing, strict=True)) if number != axis]
    text = f"field of view {plane[0]:.0f} x {plane[1]:.0f} mm"
    if not (HEAD_MM[0] <= min(plane) and max(plane) <= HEAD_MM[1]):
        doubts.append(f"{text}: {NOT_A_HEAD}")
    elif max(plane) > WIDE_MM:
        notes.append(text)
    return doubts, notes
