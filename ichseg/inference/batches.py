"""A volume through a 2-D network, batches of slices side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from ichseg.devices import slices_per_pass
from ichseg.transforms.volumes import like


class SliceBatchInferer(Inferer):
    """(B, C, X, Y, slices) -> (B, K, X, Y, slices): every slice through a 2-D network, whole.

    The same values as MONAI's ``SliceInferer`` with a window of the size of the slice. On a CPU each core takes batches
    of its own instead of a share of every layer, which leaves no core waiting while others read or write. Slices of one
    value, such as air alone, are all the same to the network: one of each is run. Keyword arguments, which some
    programs pass for the other tensors of an item, are not passed on to the network.

    Args:
        batch_size: slices per pass; None: 1 on a CPU, whose caches hold no more, and 16 elsewhere.
        workers: how many batches at once on a CPU; 0: as many as torch has threads. Elsewhere one.
    """

    def __init__(self, batch_size: int | None = None, workers: int = 0) -> None:
        super().__init__()
        if (batch_size is not None and batch_size < 1) or workers < 0:
            raise ValueError(f"batch_size must be at least 1 and workers at least 0, not {batch_size} and {workers}")
        self.batch_size, self.workers = batch_size, workers

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if volume.ndim != 5:
            raise ValueError(f"expected volumes (B, C, X, Y, slices), not shape {tuple(volume.shape)}")
        slices = volume.movedim(-1, 1).flatten(0, 1)  # (B * slices, C, X, Y)
        run, same_as = _distinct(slices)
        results: list[torch.Tensor] = [torch.empty(0)] * len(run)
        grad, on_cpu = torch.is_grad_enabled(), volume.device.type == "cpu"
        # Threads do not take over the caller's precision by themselves.
        kind, lower = volume.device.type, torch.is_autocast_enabled(volume.device.type)
        cast = partial(torch.autocast, kind, torch.get_autocast_dtype(kind), lower)
        size = slices_per_pass(self.batch_size, volume.device, on_cpu=1)

        def one(start: int) -> None:
            with torch.set_grad_enabled(grad), cast():
                wanted = run[start : start + size]
                batch = slices[wanted].contiguous(memory_format=torch.channels_last)
                for place, result in enumerate(network(batch, *args).unbind()):
                    results[start + place] = result

        starts = range(0, len(run), size)
        workers = min(len(starts), (self.workers or torch.get_num_threads()) if on_cpu else 1)
        if workers < 2:
            for start in starts:
                one(start)
        else:
            with ThreadPoolExecutor(workers, "slices", torch.set_num_threads, (1,)) as pool:
                list(pool.map(one, starts))
        scans = torch.stack([results[place] for place in same_as]).unflatten(0, (len(volume), volume.shape[-1]))
        return like(scans.movedim(1, -1), inputs)


def _distinct(slices: torch.Tensor) -> tuple[list[int], list[int]]:
    """Slices to run, and for every slice its place among them."""
    low, high = slices.flatten(1).aminmax(dim=1)
    flat, values = (low == high).tolist(), low.tolist()
    run: list[int] = []
    same_as: list[int] = []
    seen: dict[float, int] = {}
    for number, (constant, value) in enumerate(zip(flat, values, strict=True)):
        if constant and value in seen:
            same_as.append(seen[value])
            continue
        if constant:
            seen[value] = len(run)
        same_as.append(len(run))
        run.append(number)
    return run, same_as
