"""What the benchmarks share: alternating timings, peak memory, and a word on the machine."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> dict[str, Any]:
    """Processor and its instructions as torch uses them, cores, whether numbers below 1e-38 are 0, GPU, versions."""
    named = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "cpu": named[0].partition(":")[2].strip() if named else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "subnormals_flushed": bool(torch.tensor(1e-30) * 1e-10 == 0),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        **({"tf32_convolutions": torch.backends.cudnn.allow_tf32} if device.type == "cuda" else {}),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def in_turns(sides: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds per side and round. The sides take turns, so that a busy moment meets all of them; one round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            synchronize(device)
            start = time.perf_counter()
            side()
            synchronize(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: dict[str, list[float]], per: int, digits: int = 2) -> dict[str, float]:
    """Median milliseconds of each side, per item."""
    return {name: round(statistics.median(times) * 1000 / per, digits) for name, times in seconds.items()}


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over the rounds of how many times faster one side was than the other in the same round."""
    return round(statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True)), 2)


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_of(function: Callable[[], Any]) -> dict[str, float] | None:
    """MiB the process held before a call, and at most during it; None where Linux does not say it.

    Meant for a fresh process: freed memory that the process still holds would hide what a call takes.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")  # the peak starts anew from what is held now
    before = _kib(status.read_text(), "VmRSS")
    function()
    return {"before": round(before / 2**10, 1), "peak": round(_kib(status.read_text(), "VmHWM") / 2**10, 1)}


def steal_share(before: list[int], after: list[int]) -> float:
    """Share of the machine's time that went to others between two calls of :func:`processor_times`."""
    spent = [b - a for a, b in zip(before, after, strict=True)]
    return round(spent[7] / sum(spent), 3) if len(spent) > 7 and sum(spent) else 0.0


def processor_times() -> list[int]:
    """Counters of /proc/stat; empty where there is none."""
    first = _read("/proc/stat").partition("\n")[0].split()
    return [int(number) for number in first[1:]]


def require(*modules: str) -> None:
    """End with one line if the other side of a comparison is not installed."""
    packages = {"pydensecrf": "pydensecrf2==1.1", "sklearn": "scikit-learn", "torchcam": "torchcam==0.5.0"}
    missing = [packages[name] for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"the comparison needs: pip install {' '.join(missing)}")


def commit() -> str:
    """Commit of the checkout the benchmark stands in."""
    here = Path(__file__).parent
    try:
        words = ["git", "rev-parse", "--short", "HEAD"]
        found = subprocess.run(words, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        found = ""
    return found or "unknown"


def kib_of(process: int) -> int:
    """What a process holds now; 0 where Linux does not say it."""
    status = Path(f"/proc/{process}/status")
    return _kib(status.read_text(), "VmRSS") if status.exists() else 0


def _kib(status: str, name: str) -> int:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""
