"""Networks for programs that have none of our code: TorchScript, ONNX and torch.export, each for slices of any size."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ichseg.errors import IchsegError, one_line
from ichseg.io.atomic import atomic_path
from ichseg.logs import quieter
from ichseg.overrides import SIZE_STEP

LARGEST = 4096  # slices at once, and multiples of the step per side
TOLERANCE = 1e-4  # of logits
ONNX_PACKAGES = ("onnx", "onnxscript")


def export_network(
    network: nn.Module, path: str | Path, channels: int, size: int = 224, step: int = SIZE_STEP, traced: bool = False
) -> float | None:
    """Write a 2-D network with dynamic batch, height and width, whole or not at all, and run what was written.

    (``monai.bundle onnx_export`` writes a graph for the one shape that it is given.)

    Args:
        network: (B, channels, H, W) -> one tensor; what it is on the CPU in evaluation mode is written.
        path: ends in ``.ts`` (TorchScript), ``.onnx`` (input ``image``, output ``logits``) or ``.pt2`` (torch.export).
        channels: of the input.
        size: of the example that it is traced with; a multiple of ``step``.
        step: height and width may be any multiple of it.
        traced: ONNX by torch's older exporter, in a second or two instead of half a minute.

    Returns:
        the largest difference between what the file and the network give for slices of two other shapes; None if the
        file could not be run because ``onnxruntime`` is not installed.

    Raises:
        IchsegError: another ending; the packages of the extra ``ichseg[onnx]`` are not there; the network cannot be
            written in this form; or what was written differs from it by more than :data:`TOLERANCE`.
    """
    path = Path(path)
    check_output(path)
    write, reader = FORMATS[path.suffix]
    write = _trace_onnx if traced and path.suffix == ".onnx" else write
    training, device = network.training, next(network.parameters()).device
    try:
        network.cpu().eval()
        with atomic_path(path) as temporary, torch.no_grad():
            try:
                with _quiet():
                    write(network, torch.rand(2, channels, size, size), Path(temporary), step)
                    run = reader(Path(temporary))
                    if run is None:
                        return None
                    found = 0.0
                    for shape in ((1, channels, size, size), (3, channels, size + step, size)):
                        image = torch.rand(shape)
                        found = max(found, float((run(image) - network(image)).abs().max()))
            except OSError:
                raise
            except Exception as error:  # the exporters have many kinds of their own
                why = one_line(error)[:120]
                raise IchsegError(f"{path}: this network cannot be exported to this format ({why})") from error
            if not found <= TOLERANCE:
                raise IchsegError(f"{path}: not written, since its logits differ from the network's by {found:.1e}")
            return found
    finally:
        network.train(training).to(device)


def check_output(path: Path) -> None:
    """What can be known before anything is written.

    Raises:
        IchsegError: see :func:`export_network`; or there is a folder of this name.
    """
    if path.suffix not in FORMATS:
        raise IchsegError(f"{path}: the name must end in one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise IchsegError(f"{path}: is a folder")
    lacking = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and lacking:
        raise IchsegError(f"{path}: writing ONNX needs {' and '.join(lacking)}; run: pip install 'ichseg[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell their own developers a lot."""
    with quieter(logging.ERROR, "torch.onnx", "onnxscript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _dynamic(step: int) -> dict[int, object]:
    batch, height, width = (torch.export.Dim(name, min=1, max=LARGEST) for name in ("batch", "height", "width"))
    return {0: batch, 2: step * height, 3: step * width}


def _write_torchscript(network: nn.Module, image: Tensor, path: Path, step: int) -> None:
    try:
        program = torch.jit.script(network)
    except Exception:  # of a network in words that TorchScript does not know; running the trace shows whether it serves
        program = torch.jit.trace(network, image, check_trace=False)
    with path.open("wb") as file:
        torch.jit.save(program, file)


def _write_onnx(network: nn.Module, image: Tensor, path: Path, step: int) -> None:
    torch.onnx.export(
        network,
        (image,),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=(_dynamic(step),),
    )


def _trace_onnx(network: nn.Module, image: Tensor, path: Path, _step: int) -> None:
    axes = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        network,
        (image,),
        str(path),
        dynamo=False,
        opset_version=18,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": axes, "logits": axes},
    )


def _write_exported(network: nn.Module, image: Tensor, path: Path, step: int) -> None:
    program = torch.export.export(network, (image,), dynamic_shapes=(_dynamic(step),))
    with path.open("wb") as file:  # a path would have to end in .pt2
        torch.export.save(program, file)


def _run_torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.jit.load(str(path)).eval()


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _run_exported(path: Path) -> Callable[[Tensor], Tensor]:
    with path.open("rb") as file:
        return torch.export.load(file).module()


Writer = Callable[[nn.Module, Tensor, Path, int], None]
FORMATS: dict[str, tuple[Writer, Callable[[Path], Callable[[Tensor], Tensor] | None]]] = {
    ".ts": (_write_torchscript, _run_torchscript),
    ".onnx": (_write_onnx, _run_onnx),
    ".pt2": (_write_exported, _run_exported),
}
