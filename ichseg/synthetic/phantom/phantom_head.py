"""A head without disease: skull, brain, ventricles, cisterns, falx, calcifications, in Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ichseg.synthetic.phantom.shapes import Points, Waves, ellipsoid, share

AIR, FAT, SKIN, CSF, GRAY, WHITE, FALX = -1000.0, -70.0, 45.0, 7.0, 38.0, 29.0, 52.0
CORTEX_MM = 3.0
SULCI_MM = 18.0
WALL = 0.3  # of the field ``sulci``: cortex on either side of a gap


@dataclass(frozen=True)
class PhantomHead:
    """One person's head; every number that differs between people.

    Attributes:
        radii: inner table of the skull, half axes in mm (left-right, front-back, up).
        skull_mm: thickness of the skull.
        scalp_mm: thickness of the scalp.
        ventricle_scale: size of the ventricles; 1 is a young adult.
        atrophy: 0 to 1, width of sulci.
        calcified: (left, right, pineal) radii in mm of calcifications; 0 is none.
    """

    radii: tuple[float, float, float]
    skull_mm: float
    scalp_mm: float
    ventricle_scale: float
    atrophy: float
    calcified: tuple[float, float, float]
    sulci: Waves
    texture: Waves
    marrow: Waves

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PhantomHead:
        """A random adult."""
        return cls(
            radii=(rng.uniform(62, 69), rng.uniform(78, 86), rng.uniform(66, 73)),
            skull_mm=rng.uniform(5.5, 8.5),
            scalp_mm=rng.uniform(4, 7),
            ventricle_scale=rng.uniform(0.8, 1.35),
            atrophy=rng.uniform(0.1, 0.9),
            calcified=(rng.uniform(0, 3.5), rng.uniform(0, 3.5), rng.uniform(0, 2.5)),
            sulci=Waves.draw(rng, 16, 9),
            texture=Waves.draw(rng, 9, 6),
            marrow=Waves.draw(rng, 6, 5),
        )

    def depth(self, points: Points) -> np.ndarray:
        """Depth in mm below the inner table of the skull; negative in bone and beyond."""
        return ellipsoid(points, (0, 0, 0), self.radii)

    def ventricles(self, points: Points) -> np.ndarray:
        """Depth inside the lateral, third and fourth ventricles."""
        s = self.ventricle_scale
        parts = [
            ellipsoid(points, (0, 2, -3), (2.2 * s, 12, 8)),
            ellipsoid(points, (0, -36, -30), (7 * s, 5 * s, 7)),
        ]
        for side in (-1, 1):
            parts += [
                ellipsoid(points, (side * 9, 27, 6), (4.5 * s, 14 * s, 8 * s), side * -0.35),
                ellipsoid(points, (side * 9, 2, 14), (5 * s, 26, 6 * s), side * 0.12),
                ellipsoid(points, (side * 22, -30, 5), (6 * s, 13 * s, 9 * s), side * 0.45),
            ]
        return np.maximum.reduce(parts)

    def cisterns(self, points: Points) -> np.ndarray:
        """Depth inside the suprasellar and quadrigeminal cisterns and the Sylvian fissures."""
        parts = [
            ellipsoid(points, (0, 12, -25), (13, 8, 5)),
            ellipsoid(points, (0, -22, -8), (11, 3, 5)),
        ]
        width = 1.6 + 1.6 * self.atrophy
        for side in (-1, 1):
            parts.append(ellipsoid(points, (side * 43, 12, -6), (20, width, 16), side * -0.35))
        return np.maximum.reduce(parts)

    @property
    def gap(self) -> float:
        """Half the width of a sulcus, as the value of the field ``sulci`` at its wall."""
        return 0.3 + 0.25 * self.atrophy

    def sulcus(self, points: Points, depth: np.ndarray, folds: np.ndarray | None = None) -> np.ndarray:
        """Share of a voxel that is a sulcus: winding gaps that fade out ``SULCI_MM`` below the surface.

        Args:
            folds: the field ``sulci`` at the points, where it is known.
        """
        fade = np.clip(1 - depth / SULCI_MM, 0, 1)
        return np.clip(1 - np.abs(self.sulci(points) if folds is None else folds) / self.gap, 0, 1) * fade

    def hounsfield(self, points: Points) -> np.ndarray:
        """HU at points, without noise."""
        x, y, z = points
        depth = self.depth(points)
        hu = np.full(depth.shape, AIR, dtype=np.float32)

        def paint(alpha: np.ndarray, value) -> None:
            hu[...] += alpha * (value - hu)

        outside = self.skull_mm + self.scalp_mm
        paint(share(depth + outside), SKIN)
        paint(share(depth + outside - 2.2) * share(-(depth + self.skull_mm + 1.5)), FAT)
        # Two tables of compact bone with marrow between them.
        bone = 1150 - 650 * np.clip(1.2 - np.abs(depth + self.skull_mm / 2) / (0.28 * self.skull_mm), 0, 1)
        paint(share(depth + self.skull_mm), bone + 60 * self.marrow(points))
        paint(share(depth), CSF)
        surface = 1.0 + 1.8 * self.atrophy
        folds = self.sulci(points)
        cortex = share(depth - surface - CORTEX_MM - 1.5 * folds, 1.5)
        # Deep gray matter: caudate and lentiform nuclei, thalami.
        nuclei = np.maximum.reduce(
            [ellipsoid(points, (s * a, b, c), r) for s in (-1, 1) for a, b, c, r in (
                (24, 8, 2, (8, 15, 10)), (11, -8, 4, (8, 12, 9)), (14, 24, 8, (5, 9, 9)))]
        )  # fmt: skip
        # Cortex follows the walls of the sulci inward: without it the surface alone is gray, a bright ring no head has.
        walls = np.clip((self.gap + WALL - np.abs(folds)) * 4, 0, 1) * np.clip(1.3 - depth / (SULCI_MM + 4), 0, 1)
        white = cortex * (1 - 0.8 * share(nuclei, 2)) * (1 - walls)
        tissue = GRAY + (WHITE - GRAY) * white + 1.2 * self.texture(points)
        # Beam hardening: brain next to thick bone looks a little denser.
        tissue = tissue + 4.0 * np.exp(-np.clip(depth, 0, None) / 6)
        paint(share(depth - surface), tissue)
        paint(self.sulcus(points, depth, folds) * share(depth), CSF)
        paint(share(self.cisterns(points)), CSF)
        paint(share(self.ventricles(points)), CSF)
        falx = share(0.7 - np.abs(x)) * share(depth) * np.clip((np.hypot(y / 70, z / 60 - 0.1) - 0.62) * 8, 0, 1)
        paint(falx * (z > -25), FALX)
        # The superior sagittal sinus: a little triangle of blood at the back of the falx.
        sinus = np.minimum(np.minimum(3.0 - np.abs(x), 7 - depth), depth)
        paint(share(sinus) * (y < 0) * (z > 0), 50.0)
        self._skull_base(points, depth, paint)
        for side, radius in ((-1, self.calcified[0]), (1, self.calcified[1])):
            if radius > 1:
                paint(share(ellipsoid(points, (side * 22, -29, 4), (radius, 1.6 * radius, radius))), 170.0)
        if self.calcified[2] > 1:
            paint(share(ellipsoid(points, (0, -18, 2), (self.calcified[2],) * 3)), 140.0)
        return hu

    def _skull_base(self, points: Points, depth: np.ndarray, paint) -> None:
        """Petrous ridges, the sphenoid body with its air, and the orbital roofs, in the lowest slices."""
        if points[2].min() > -30:  # all of it lies below
            return
        inside = share(depth + self.skull_mm)
        for side in (-1, 1):
            paint(share(ellipsoid(points, (side * 36, -16, -52), (30, 8, 13), side * 0.6)) * inside, 950.0)
            paint(share(ellipsoid(points, (side * 44, -22, -52), (6, 5, 6))) * inside, -500.0)
            paint(share(ellipsoid(points, (side * 28, 62, -46), (20, 24, 13))) * inside, 700.0)
            paint(share(ellipsoid(points, (side * 28, 64, -49), (17, 21, 11))) * inside, FAT)
            paint(share(ellipsoid(points, (side * 28, 72, -50), (11, 11, 10))) * inside, 12.0)
        paint(share(ellipsoid(points, (0, 22, -48), (15, 16, 12))) * inside, 800.0)
        paint(share(ellipsoid(points, (0, 24, -49), (10, 11, 8))) * inside, AIR)
