"""Shapes of five kinds of hemorrhage, in millimeters, as far as they reach above and below their middle slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ichseg.synthetic.implants.head_slices import HeadSlices

SETTLED = 0.6  # of blood in ventricles
# Of hematomas, contusions; of crescents and lenses, slivers.
SUBTLE = {"IPH": 0.25, "SDH": 0.3, "EDH": 0.4}


@dataclass
class ImplantLesion:
    """A shape.

    Attributes:
        reach: mm above and below the middle slice beyond which there is nothing of it.
        inside: (slice index, mm above the middle slice) -> (H, W) bool.
        faint: blood between fibers, a few HU above the brain around it.
    """

    reach: float
    inside: Callable[[int, float], np.ndarray]
    faint: bool = False


def draw_lesion(head: HeadSlices, middle: int, subtype: str, rng: np.random.Generator) -> ImplantLesion | None:
    """Draw the shape of one hemorrhage; None where the slice has no room for it.

    Args:
        head: the scan.
        middle: slice in which the lesion is largest.
        subtype: EDH, IPH, IVH, SAH or SDH.
        rng: source of chance.
    """
    makers = {"IPH": (_hematomas, _contusions), "SDH": (_crescent, _sliver), "EDH": (_lens, _sliver)}
    if subtype in makers:
        return makers[subtype][int(rng.uniform() < SUBTLE[subtype])](head, middle, rng)
    return _filled_fluid(head, middle, rng, ventricles=subtype == "IVH")


def _hematomas(head: HeadSlices, middle: int, rng: np.random.Generator) -> ImplantLesion | None:
    """One hematoma, or several small contusions, anywhere in the brain."""
    rows, columns = np.nonzero(head.depth(middle) > 4)
    if not len(rows):
        return None
    several = rng.uniform() < 0.25
    rough = _uneven(head, rng, 12.0, 0.16)
    bodies = []
    for _ in range(int(rng.integers(2, 6)) if several else 1):
        at = int(rng.integers(len(rows)))
        radius = rng.uniform(2, 6) if several else _between(rng, 2.5, 26)
        bodies.append(
            _Ellipsoid(
                (rows[at] * head.pixel, columns[at] * head.pixel),
                radius,
                rng.uniform(0.55, 1.0),
                radius * rng.uniform(0.6, 1.0),
                rng.uniform(0, np.pi),
            )
        )

    def inside(index: int, z: float) -> np.ndarray:
        mask = np.zeros(head.hounsfield.shape[1:], bool)
        for body in bodies:
            mask |= body.inside(head, z, rough(z))
        return mask & (head.depth(index) > 2)

    return ImplantLesion(1.3 * max(body.height for body in bodies), inside)


def _crescent(head: HeadSlices, middle: int, rng: np.random.Generator) -> ImplantLesion:
    """A layer along the inner table, thickest in its middle."""
    direction, half = rng.uniform(-np.pi, np.pi), rng.uniform(0.25, 1.4)
    thickest, reach = _between(rng, 2, 13), rng.uniform(8, 40)
    rough = _uneven(head, rng, 12.0, 0.15)
    center = head.center(middle)
    rows, columns = head.coordinates
    angle = np.arctan2(rows - center[0], columns - center[1])
    off = np.abs((angle - direction + np.pi) % (2 * np.pi) - np.pi) / half
    profile = thickest * np.sqrt(np.clip(1 - off**2, 0, None))

    def inside(index: int, z: float) -> np.ndarray:
        thick = profile * np.sqrt(max(1 - (z / reach) ** 2, 0)) * (1 + rough(z))
        return head.brain[index] & (head.depth(index) <= thick) & (thick > 1)

    return ImplantLesion(reach, inside)


def _sliver(head: HeadSlices, middle: int, rng: np.random.Generator) -> ImplantLesion:
    """A layer of 1 to 4 mm over a short arc of the inner table, in a few slices."""
    center, reach = head.center(middle), rng.uniform(4, 20)
    thickest, half = _between(rng, 1.2, 4.5), _between(rng, 0.1, 0.5)
    rows, columns = head.coordinates
    angle = np.arctan2(rows - center[0], columns - center[1]) - rng.uniform(-np.pi, np.pi)
    off = np.abs((angle + np.pi) % (2 * np.pi) - np.pi) / half
    profile = thickest * np.sqrt(np.clip(1 - off**2, 0, None))
    rough = _uneven(head, rng, 8.0, 0.25)

    def inside(index: int, z: float) -> np.ndarray:
        thick = profile * np.sqrt(max(1 - (z / reach) ** 2, 0)) * (1 + rough(z))
        return head.brain[index] & (head.depth(index) <= thick) & (thick > 0.8)

    return ImplantLesion(reach, inside)


def _contusions(head: HeadSlices, middle: int, rng: np.random.Generator) -> ImplantLesion | None:
    """Faint, mottled patches, mostly where the brain meets bone."""
    depth = head.depth(middle)
    rows, columns = np.nonzero((depth > 1) & (depth < 18) if rng.uniform() < 0.75 else depth > 4)
    if not len(rows):
        return None
    at = int(rng.integers(len(rows)))
    rough, bodies = _uneven(head, rng, 7.0, 0.3), []
    for _ in range(int(rng.integers(1, 5))):
        radius = _between(rng, 3, 12)
        place = [(line[at] + rng.normal(0, 8) / head.pixel) * head.pixel for line in (rows, columns)]
        height = radius * rng.uniform(0.6, 1.2)
        body = _Ellipsoid((place[0], place[1]), radius, rng.uniform(0.4, 1.0), height, rng.uniform(0, np.pi))
        bodies.append(body)

    def inside(index: int, z: float) -> np.ndarray:
        mask = np.zeros(head.hounsfield.shape[1:], bool)
        for body in bodies:
            mask |= body.inside(head, z, rough(z))
        return mask & (head.depth(index) > 1)

    return ImplantLesion(1.4 * max(body.height for body in bodies), inside, faint=True)


def _lens(head: HeadSlices, middle: int, rng: np.random.Generator) -> ImplantLesion | None:
    """A biconvex body pressed inward from the inner table."""
    rows, columns = np.nonzero(head.brain[middle] & (head.depth(middle) <= 1.5 * head.pixel))
    if not len(rows):
        return None
    center = head.center(middle)
    at = int(rng.integers(len(rows)))
    row, column = rows[at] * head.pixel, columns[at] * head.pixel
    normal = np.arctan2(row - center[0], column - center[1])
    wide = _between(rng, 5, 38)
    deep = min(_between(rng, 2, 22), 0.7 * wide)  # many are slivers of a few millimeters
    body = _Ellipsoid((row, column), wide, deep / wide, wide * rng.uniform(0.5, 0.9), normal + np.pi / 2)
    rough = _uneven(head, rng, 12.0, 0.08)
    return ImplantLesion(1.2 * body.height, lambda index, z: head.brain[index] & body.inside(head, z, rough(z)))


def _filled_fluid(head: HeadSlices, middle: int, rng: np.random.Generator, ventricles: bool) -> ImplantLesion | None:
    """Fluid turned to blood near one point: deep pieces (ventricles) or those near the surface (sulci, cisterns)."""
    deep = 14.0 * min(1.0, float(np.sqrt(head.areas[middle] / 16000)))
    rows, columns = np.nonzero(_fluid(head, middle, deep, ventricles))
    if len(rows) * head.pixel**2 < 40:
        return None
    at = int(rng.integers(len(rows)))
    # A patient lies on the back: blood settles there, in both horns, with a level as any fluid.
    settled = ventricles and head.back is not None and rng.uniform() < SETTLED
    reach = rng.uniform(40, 90) if settled else rng.uniform(12, 45)
    near = _Ellipsoid((rows[at] * head.pixel, columns[at] * head.pixel), reach, 1.0, reach * rng.uniform(0.4, 0.8), 0.0)
    level = _between(rng, 1.5, 12)

    def inside(index: int, z: float) -> np.ndarray:
        mask = _fluid(head, index, deep, ventricles) & near.inside(head, z, 0.0)
        if ventricles:
            return _sediment(head, mask, level) if settled else mask
        grown = max(round(1 / head.pixel), 1)
        return ndimage.binary_dilation(mask, iterations=grown) & head.brain[index] if mask.any() else mask

    return ImplantLesion(near.height, inside)


def _sediment(head: HeadSlices, fluid: np.ndarray, level: float) -> np.ndarray:
    """(H, W) bool: the hindmost ``level`` mm of every piece of fluid."""
    rows, columns = head.coordinates
    back = head.back or (0, 0)
    behind = rows * back[0] + columns * back[1]
    pieces, count = ndimage.label(fluid)
    if not count:
        return fluid
    hindmost = np.concatenate([[np.inf], ndimage.maximum(behind, pieces, np.arange(1, count + 1))])
    return fluid & (behind > hindmost[pieces] - level)


def _fluid(head: HeadSlices, index: int, deep: float, ventricles: bool) -> np.ndarray:
    smooth = head.smooth(index)
    fluid = head.brain[index] & (smooth < 20) & (smooth > -8)
    fluid &= head.depth(index) > (deep if ventricles else 1.5)
    if not ventricles and head.upper(index):
        fluid &= head.depth(index) <= deep
    return ndimage.binary_opening(fluid, iterations=max(round(1 / head.pixel), 1)) if ventricles else fluid


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """As often between 2 and 4 as between 4 and 8: small ones are many, large ones are there."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _uneven(head: HeadSlices, rng: np.random.Generator, length: float, amount: float) -> Callable[[float], np.ndarray]:
    """Noise that changes with height as quickly as in plane."""
    one, other = head.noise(rng, length), head.noise(rng, length)
    return lambda z: amount * (np.cos(z / length) * one + np.sin(z / length) * other)


@dataclass
class _Ellipsoid:
    """Long half axis ``radius`` along ``turn``, short one ``flatness`` times it, ``height`` across slices; in mm."""

    center: tuple[float, float]
    radius: float
    flatness: float
    height: float
    turn: float

    def inside(self, head: HeadSlices, z: float, rough: np.ndarray | float) -> np.ndarray:
        rows, columns = head.coordinates
        dy, dx = rows - self.center[0], columns - self.center[1]
        along = np.cos(self.turn) * dx + np.sin(self.turn) * dy
        across = -np.sin(self.turn) * dx + np.cos(self.turn) * dy
        flat = (along / self.radius) ** 2 + (across / (self.radius * self.flatness)) ** 2
        return np.sqrt(flat + (z / self.height) ** 2) < 1 + rough
