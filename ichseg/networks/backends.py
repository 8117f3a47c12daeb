"""Other libraries that run a 2-D network on a CPU, faster than torch, with the same weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from ichseg.defaults import BACKENDS
from ichseg.errors import IchsegError
from ichseg.networks.exported import export_network
from ichseg.precision import checked_precision

logger = logging.getLogger(__name__)
EXAMPLE_SIZE = 64  # pixels per side of the slice that the network is traced with
Run = Callable[[Tensor], Tensor]


class BackendNetwork(nn.Module):
    """A 2-D network whose forward pass another library computes, on the CPU and without gradients.

    Args:
        network: (B, channels, H, W) -> one tensor, in evaluation mode from here on.
        backend: ``"openvino"`` or ``"onnxruntime"``.
        channels: of the input.
        precision: ``"fp32"``, or ``"bf16"`` where the library can: OpenVINO on processors that can.

    Raises:
        IchsegError: the library is not installed, or cannot do this.
    """

    def __init__(self, network: nn.Module, backend: str, channels: int, precision: str = "fp32") -> None:
        super().__init__()
        self.network, self.backend, self.precision = network.cpu().eval(), backend, checked_precision(precision)
        if importlib.util.find_spec(backend) is None:
            raise IchsegError(f"backend {backend}: not installed; run: pip install 'ichseg[{backend}]'")
        if backend != "openvino" and precision != "fp32":
            raise IchsegError(f"backend {backend}: precision {precision} is not supported, only fp32")
        # In a tuple: no submodule, and nothing that a hash of the network would see.
        self._run: Any = (_MAKERS[backend](self.network, channels, self.precision),)
        logger.info("backend: %s", backend)

    def forward(self, image: Tensor) -> Tensor:
        """(B, channels, H, W) -> what the network gives."""
        return self._run[0](image.detach().float().cpu().contiguous())


def on_backend(
    network: nn.Module, backend: str, channels: int, device: torch.device | str, precision: str = "fp32"
) -> nn.Module:
    """The network as a backend runs it; ``"torch"``, the reference: as it is.

    Args:
        network, channels, precision: see :class:`BackendNetwork`.
        backend: one of :data:`ichseg.defaults.BACKENDS`.
        device: of the run.

    Raises:
        IchsegError: the backend is unknown or not installed, or the device is no CPU.
    """
    if backend not in BACKENDS:
        raise IchsegError(f"backend must be one of {', '.join(BACKENDS)}, not '{backend}'")
    if backend == "torch":
        return network
    if torch.device(device).type != "cpu":
        raise IchsegError(f"backend {backend}: runs on the CPU only; use --device cpu, or the backend torch")
    return BackendNetwork(network, backend, channels, precision)


def _openvino(network: nn.Module, channels: int, precision: str) -> Run:
    # It reports over the network that it is used, unless this package is not there. convert_model() would do so too.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that do not vary
        traced = TorchScriptPythonDecoder(network, example_input=torch.rand(1, channels, EXAMPLE_SIZE, EXAMPLE_SIZE))
    model = frontend.convert(frontend.load(traced))
    model.reshape({model.inputs[0]: openvino.PartialShape([-1, channels, -1, -1])})
    threads = torch.get_num_threads()
    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,  # each core takes slices of its own, see SliceBatchInferer
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    idle: SimpleQueue[Any] = SimpleQueue()  # a request is one caller's at a time
    for _ in range(threads):
        idle.put(compiled.create_infer_request())

    def run(image: Tensor) -> Tensor:
        request = idle.get()
        try:
            return torch.from_numpy(request.infer({0: image.numpy()})[0].copy())
        finally:
            idle.put(request)

    return run


def _onnxruntime(network: nn.Module, channels: int, precision: str) -> Run:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with contextlib.suppress(IchsegError):  # if sizes became numbers, or torch no longer has that exporter
            export_network(network, file, channels, EXAMPLE_SIZE, traced=True)
        if not file.is_file():
            export_network(network, file, channels, EXAMPLE_SIZE)
        onnxruntime.disable_telemetry_events()  # which it has on Windows
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # each core takes slices of its own
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


_MAKERS: dict[str, Callable[[nn.Module, int, str], Run]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
