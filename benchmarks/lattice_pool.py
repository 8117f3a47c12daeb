"""pydensecrf in one process per core: the other side of the benchmarks."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import numpy as np

_data: dict[str, Any] = {}


def mean_field(
    probabilities: np.ndarray,
    image: np.ndarray,
    iterations: int = 10,
    spatial: tuple[float, float] = (3, 3),
    bilateral: tuple[float, float, float] = (80, 13, 10),
) -> np.ndarray:
    """One slice through pydensecrf's gray lattice: probabilities (C, H, W), image (H, W) -> (C, H, W)."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian

    labels, shape = len(probabilities), image.shape
    crf = dcrf.DenseCRF(image.size, labels)
    unary = -np.log(np.maximum(probabilities, 1e-8)).reshape(labels, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    crf.addPairwiseEnergy(create_pairwise_gaussian((spatial[0],) * 2, shape), compat=spatial[1])
    features = create_pairwise_bilateral(
        (bilateral[0],) * 2, (bilateral[1] / np.sqrt(3),), image.astype(np.float32)[..., None], chdim=2
    )
    crf.addPairwiseEnergy(features, compat=bilateral[2])
    return np.asarray(crf.inference(iterations)).reshape(labels, *shape)


class LatticePool:
    """Slices shared out over processes that hold them already, so that nothing but the work is timed.

    Args:
        probabilities: (n, C, H, W).
        images: (n, H, W).
        processes: usually one per core.
    """

    def __init__(self, probabilities: np.ndarray, images: np.ndarray, processes: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        self.count = len(images)
        context = multiprocessing.get_context("spawn")
        self.pool = context.Pool(processes, _hold, (probabilities, images))

    def __call__(self) -> None:
        """All slices once."""
        for _ in self.pool.imap_unordered(_one, range(self.count)):
            pass

    def close(self) -> None:
        """End the processes."""
        self.pool.terminate()
        self.pool.join()


def _hold(probabilities: np.ndarray, images: np.ndarray) -> None:
    _data.update(probabilities=probabilities, images=images)


def _one(number: int) -> float:
    return float(mean_field(_data["probabilities"][number], _data["images"][number]).sum())
