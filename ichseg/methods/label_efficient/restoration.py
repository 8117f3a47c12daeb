"""Context restoration: patches trade places, and the network puts them back."""

from __future__ import annotations

import numpy as np

TRIES = 50


def swap_patches(
    image: np.ndarray, rng: np.random.Generator, pairs: int = 10, sides: tuple[int, int] = (10, 30)
) -> np.ndarray:
    """Swap pairs of square patches, each turned by a random number of quarters; no two patches overlap.

    Args:
        image: (H, W).
        rng: source of chance.
        pairs: at most; where no free place is found, there are fewer.
        sides: smallest side in pixels, and one more than the largest.

    Returns:
        a new image of the same pixels in other places.
    """
    result, taken = image.copy(), np.zeros(image.shape, bool)
    for _ in range(pairs):
        side = int(rng.integers(*sides))
        places = []
        for _ in range(2):
            place = _free(taken, side, rng)
            if place is None:
                break
            taken[place] = True
            places.append(place)
        if len(places) == 2:
            one, other = (np.rot90(image[place], int(rng.integers(4))) for place in places)
            result[places[0]], result[places[1]] = other, one
    return result


def _free(taken: np.ndarray, side: int, rng: np.random.Generator) -> tuple[slice, slice] | None:
    height, width = taken.shape
    if side > min(height, width):
        return None
    for _ in range(TRIES):
        row, column = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        place = slice(row, row + side), slice(column, column + side)
        if not taken[place].any():
            return place
    return None
