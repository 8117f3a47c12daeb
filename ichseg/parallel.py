"""One image per CPU core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_images(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``[function(item) for item in items]`` on as many threads as torch would use, one thread per item.

    Many small operations shared by several threads wait for each other at every step, which costs most where a
    machine is busy; whole images do not. The caller's gradient mode and context variables hold in the threads, and
    torch's number of threads is as before afterwards. (It belongs to the process: a thread that starts meanwhile
    starts with one.)
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients and not inference):
            return function(item)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # inside an operation; both the workers' and this thread's count
        with ThreadPoolExecutor(threads, "ichseg", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            contexts = [copy_context() for _ in items]  # such as of full_precision()
            return list(pool.map(lambda context, item: context.run(run, item), contexts, items))
    finally:
        torch.set_num_threads(before)
