"""Networks as ONNX graphs that take any number of slices of any size."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from ichseg.errors import IchsegError
from ichseg.io.atomic import atomic_path
from ichseg.overrides import SIZE_STEP


def export_onnx(network: nn.Module, path: str | Path, channels: int, size: int = 224, step: int = SIZE_STEP) -> None:
    """Write a 2-D network as an ONNX graph with dynamic batch, height and width, whole or not at all.

    ``monai.bundle onnx_export`` writes a graph for the one shape it is given.

    Args:
        network: (B, channels, H, W) -> one tensor; what it is on the CPU in evaluation mode is written.
        path: of the ``.onnx`` file. Input ``image``, output ``logits``.
        channels: of the input.
        size: of the example that it is traced with; a multiple of ``step``.
        step: height and width may be any multiple of it.

    Raises:
        IchsegError: the packages of the extra ``ichseg[onnx]`` are not there.
    """
    if lacking := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise IchsegError(f"{path}: writing ONNX needs {' and '.join(lacking)}; run: pip install 'ichseg[onnx]'")
    batch, height, width = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "height", "width"))
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels, training = [logger.level for logger in loggers], network.training
    device = next(network.parameters()).device
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), atomic_path(path) as temporary:
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.cpu().eval(),
                (torch.rand(2, channels, size, size),),
                temporary,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: batch, 2: step * height, 3: step * width},),
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        network.train(training).to(device)
