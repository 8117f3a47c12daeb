"""Shapes in millimeters: signed depth (positive inside) of points, and smooth random fields."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Points = tuple[np.ndarray, np.ndarray, np.ndarray]  # x to the right, y to the front, z up, mm


def ellipsoid(points: Points, center, radii, turn: float = 0.0) -> np.ndarray:
    """Approximate depth in mm below the surface of an ellipsoid turned by ``turn`` radians about z."""
    x, y, z = (p - c for p, c in zip(points, center, strict=True))
    if turn:
        x, y = math.cos(turn) * x + math.sin(turn) * y, -math.sin(turn) * x + math.cos(turn) * y
    a, b, c = radii
    size = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    length = np.sqrt(x * x + y * y + z * z)
    # |p| (1 - f) / f is the distance to the surface along the ray; at the center the smallest radius.
    return np.where(size > 1e-3, length * (1 - size) / np.maximum(size, 1e-3), min(radii))


def share(depth: np.ndarray, edge: float = 0.6) -> np.ndarray:
    """Share of a voxel that lies inside, from the depth of its center; ``edge`` is half the blurred width in mm."""
    return np.clip(0.5 + depth / (2 * edge), 0.0, 1.0)


@dataclass(frozen=True)
class Waves:
    """A smooth random field in about [-1, 1]: a few plane waves of similar length."""

    vectors: np.ndarray  # (waves, 3) radians per mm
    phases: np.ndarray  # (waves,)

    @classmethod
    def draw(cls, rng: np.random.Generator, length_mm: float, waves: int = 6) -> Waves:
        """Random directions with wavelengths around ``length_mm``."""
        directions = rng.normal(size=(waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = length_mm * rng.uniform(0.7, 1.4, waves)
        return cls(directions * (2 * np.pi / lengths)[:, None], rng.uniform(0, 2 * np.pi, waves))

    def __call__(self, points: Points) -> np.ndarray:
        # Python's numbers: NumPy's own would make float64 of all points, at twice the time.
        total = sum(
            np.cos(kx * points[0] + ky * points[1] + kz * points[2] + phase)
            for (kx, ky, kz), phase in zip(self.vectors.tolist(), self.phases.tolist(), strict=True)
        )
        return total * (1.4 / len(self.phases))
