"""Hemorrhage of the five types: where it lies, how dense it is, what surrounds it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ichseg.data.subtypes import SUBTYPES
from ichseg.synthetic.phantom.phantom_head import CSF, PhantomHead
from ichseg.synthetic.phantom.shapes import Points, Waves, ellipsoid, share

EDEMA = 21.0


@dataclass(frozen=True)
class PhantomLesion:
    """One hemorrhage.

    Attributes:
        code: subtype code, see :data:`ichseg.data.SUBTYPES`.
        side: -1 left, 1 right (x runs to the right).
        size: relative size, 0 small to 1 large.
        hounsfield: HU of fresh clot.
        place: subtype's own two numbers between 0 and 1 that say where.
        rough: field that makes surface and density uneven.
    """

    code: int
    side: int
    size: float
    hounsfield: float
    place: tuple[float, float]
    rough: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator, subtype: str) -> PhantomLesion:
        """A random hemorrhage of ``subtype`` (EDH, IPH, IVH, SAH, SDH)."""
        codes = {name: code for code, name in SUBTYPES.items()}
        if subtype not in codes:
            raise ValueError(f"subtype '{subtype}' is unknown; choose one of {', '.join(codes)}")
        side = int(rng.choice([-1, 1]))
        place = (float(rng.uniform()), float(rng.uniform()))
        dense = float(rng.uniform(54, 64) if subtype == "SAH" else rng.uniform(60, 74))
        return cls(codes[subtype], side, float(rng.uniform()), dense, place, Waves.draw(rng, 14))

    @property
    def subtype(self) -> str:
        """EDH, IPH, IVH, SAH or SDH."""
        return SUBTYPES[self.code]

    def depth(self, points: Points, head: PhantomHead) -> np.ndarray:
        """Depth in mm below the lesion's surface, negative outside."""
        return getattr(self, f"_{self.subtype.lower()}")(points, head)

    def paint(self, hu: np.ndarray, points: Points, head: PhantomHead) -> np.ndarray:
        """Add the lesion to ``hu`` in place and return the share of each voxel it fills."""
        depth = self.depth(points, head)
        if self.subtype == "IPH":
            halo = share(depth + 3 + 5 * self.size, 2.5) * share(head.depth(points) - 2) * (hu > CSF + 8) * (hu < 60)
            hu += 0.8 * halo * (EDEMA - hu)
        filled = share(depth)
        hu += filled * (self.hounsfield + 4 * self.rough(points) - hu)
        return filled

    def _iph(self, points: Points, head: PhantomHead) -> np.ndarray:
        # Deep (putamen, thalamus) or lobar.
        u, v = self.place
        deep = u < 0.6
        center = (
            self.side * (22 + 5 * v if deep else 36 + 6 * v),
            -12 + 24 * v if deep else -40 + 75 * v,
            -2 + 10 * u if deep else 5 + 25 * u,
        )
        r = 8 + 15 * self.size
        blob = ellipsoid(points, center, (0.8 * r, 1.15 * r, 0.9 * r), 0.3 * self.side) + 2.2 * self.rough(points)
        return np.minimum(blob, head.depth(points) - 3)

    def _ivh(self, points: Points, head: PhantomHead) -> np.ndarray:
        # Blood sinks: a level in the occipital parts of the lateral ventricles, or a cast of one side.
        u, _ = self.place
        x, y, _ = points
        level = -30 + 45 * self.size - y
        sided = self.side * x + 2 if u < 0.5 else np.inf
        return np.minimum(np.minimum(head.ventricles(points), level), sided)

    def _sah(self, points: Points, head: PhantomHead) -> np.ndarray:
        # Cisterns and the Sylvian fissure of one side, or sulci of one convexity.
        u, v = self.place
        x, y, z = points
        if u < 0.55:
            reach = 30 + 35 * self.size - np.sqrt((x - self.side * 14) ** 2 + (y - 12) ** 2 + (z + 18) ** 2)
            return np.minimum(head.cisterns(points), reach)
        center = (self.side * 45, -35 + 70 * v, 22)
        reach = 16 + 18 * self.size - np.sqrt(sum((p - c) ** 2 for p, c in zip(points, center, strict=True)))
        depth = head.depth(points)
        cleft = (head.sulcus(points, depth) - 0.25) * 4
        return np.minimum.reduce([cleft, reach, depth - 0.5, 16 - depth])

    def _sdh(self, points: Points, head: PhantomHead) -> np.ndarray:
        # A crescent: thickness falls off slowly along the inner table, across sutures.
        u, v = self.place
        x, y, z = points
        angle = np.arctan2(y / head.radii[1], self.side * x / head.radii[0]) - (-0.5 + 1.0 * u)
        along = np.clip(1 - (angle / (0.75 + 0.45 * self.size)) ** 2, 0, None)
        upward = np.clip(1 - ((z - (5 + 20 * v)) / (32 + 14 * self.size)) ** 2, 0, None)
        thick = (4 + 9 * self.size) * np.sqrt(along * upward) + 0.6 * self.rough(points)
        depth = head.depth(points)
        return np.minimum(np.minimum(depth, thick - depth), np.where((along > 0) & (upward > 0), np.inf, -3.0))

    def _edh(self, points: Points, head: PhantomHead) -> np.ndarray:
        # A lens: a flat body pressed inward from the inner table, held by the sutures.
        u, v = self.place
        angle = -0.7 + 1.6 * u
        z = 28 * v - 6
        shrink = math.sqrt(max(1 - (z / head.radii[2]) ** 2, 0.05))
        center = (
            self.side * head.radii[0] * shrink * math.cos(angle),
            head.radii[1] * shrink * math.sin(angle),
            z,
        )
        thick, wide = 9 + 14 * self.size, 22 + 12 * self.size
        turn = math.atan2(center[1] / head.radii[1] ** 2, center[0] / head.radii[0] ** 2)
        return np.minimum(head.depth(points), ellipsoid(points, center, (thick, wide, wide), turn))
