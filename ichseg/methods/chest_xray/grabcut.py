"""GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) of a gray slice, started from percentiles of a class map."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

PERCENTILES = (15.0, 70.0, 99.5)  # of the map: surely background, probably, probably foreground, surely
ITERATIONS, COMPONENTS = 5, 5
GAMMA = 50.0  # weight of the boundary (GrabCut)
SCALE = 1000  # capacities are whole numbers
SMALL = 1e-6


def grab_cut(
    image: np.ndarray, score: np.ndarray, iterations: int = ITERATIONS, components: int = COMPONENTS, seed: int = 0
) -> np.ndarray:
    """Two mixtures of gray levels and a minimum cut, in turns.

    Args:
        image: (H, W) in [0, 1].
        score: (H, W), the map; nothing is cut out where it is the same everywhere.
        iterations: turns.
        components: of each mixture.
        seed: of the mixtures' first centers.

    Returns:
        (H, W) bool.
    """
    low, middle, high = np.percentile(score, PERCENTILES)
    if not low < high:
        return np.zeros(score.shape, bool)
    sure_out, sure_in = score <= low, score >= high
    inside = (score > middle) | sure_in
    neighbors = _boundary(image)
    for _ in range(iterations):
        if not inside.any() or inside.all():
            break
        costs = [_cost(image, part, components, seed) for part in (~inside, inside)]  # of background and of foreground
        cut = _cut(costs[0], costs[1], sure_out, sure_in, neighbors)
        if np.array_equal(cut, inside):
            break
        inside = cut
    return inside


def _cost(image: np.ndarray, part: np.ndarray, components: int, seed: int) -> np.ndarray:
    """-log of a mixture of Gaussians fitted to the gray levels of a part, for every pixel."""
    values = image[part].astype(np.float64)
    count = min(components, len(np.unique(values)))
    centers, kinds = kmeans2(values[:, None], count, minit="++", seed=seed)
    density = np.full(image.shape, SMALL)
    for kind in range(count):
        own = values[kinds == kind]
        if len(own):
            spread = max(own.std(), 1 / 255)
            density += (
                len(own) / len(values) / spread * np.exp(-((image - float(centers[kind, 0])) ** 2) / (2 * spread**2))
            )
    return -np.log(density)


def _boundary(image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of pixels side by side, and the price of a cut between them."""
    index = np.arange(image.size).reshape(image.shape)
    steps = [np.diff(image, axis=axis) ** 2 for axis in (0, 1)]
    beta = 1 / max(2 * float(np.mean(np.concatenate([step.ravel() for step in steps]))), SMALL)
    ends = ((index[:-1], index[1:]), (index[:, :-1], index[:, 1:]))
    return [(a.ravel(), b.ravel(), GAMMA * np.exp(-beta * s).ravel()) for (a, b), s in zip(ends, steps, strict=True)]


def _cut(
    background: np.ndarray,
    foreground: np.ndarray,
    sure_out: np.ndarray,
    sure_in: np.ndarray,
    neighbors: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Foreground of a minimum cut between a source of foreground and a sink of background."""
    pixels, never = background.size, 10 * GAMMA
    source, sink = pixels, pixels + 1
    least = np.minimum(background, foreground)  # a price that both sides pay decides nothing
    from_source = np.where(sure_in, never, np.where(sure_out, 0, background - least)).ravel()
    to_sink = np.where(sure_out, never, np.where(sure_in, 0, foreground - least)).ravel()
    every = np.arange(pixels)
    rows = [np.full(pixels, source), every]
    columns = [every, np.full(pixels, sink)]
    prices = [from_source, to_sink]
    for one, other, price in neighbors:
        rows += [one, other]
        columns += [other, one]
        prices += [price, price]
    capacity = np.round(SCALE * np.concatenate(prices)).astype(np.int32)
    graph = sparse.csr_matrix((capacity, (np.concatenate(rows), np.concatenate(columns))), shape=(pixels + 2,) * 2)
    flow = maximum_flow(graph, source, sink).flow
    left = graph - flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    inside = np.zeros(pixels + 2, bool)
    inside[reached] = True
    return inside[:pixels].reshape(background.shape)
