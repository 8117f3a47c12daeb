"""Counting numbers that Intel processors take a hundred times longer to multiply."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Subnormals(TorchDispatchMode):
    """Counts the numbers between 0 and the smallest normal one in what every operation takes and gives."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if "empty" not in str(func) and not func.is_view:  # memory that nobody has written to yet
            for value in tree_leaves((args, kwargs, result)):
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    small = (value != 0) & (value.abs() < torch.finfo(value.dtype).tiny)
                    self.found[str(func)] += int(small.sum())
        return result
