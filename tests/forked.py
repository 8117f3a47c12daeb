"""``python -m`` for tests, in processes forked from one that has imported torch and MONAI: seconds less for each."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["monai.bundle", "monai.data", "ichseg.cli", "ichseg.folder", "ichseg.inference"])


def start_server() -> None:
    """Start the process that others are forked from, with its imports, for whoever forks of it by other ways."""
    from multiprocessing import forkserver

    forkserver.ensure_running()


def run_module(
    words: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``python -m WORDS`` says and comes to.

    Args:
        words: the module's name, and its command line.
        cwd: folder to start in.
        env: environment variables on top of this process's.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start_module(words, cwd, env, out, err)
        process.join()
        code = int(process.exitcode or 0)
        return subprocess.CompletedProcess(list(words), code, out.read_text(), err.read_text())


def run_together(words: Sequence[str], count: int, cwd: Path | None = None) -> list[str]:
    """``torchrun --nproc_per_node=COUNT -m WORDS``, without its agent; what each process says to the error stream."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
                  "LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}  # fmt: skip
        said = [Path(folder, str(rank)) for rank in range(count)]
        started = [
            start_module(words, cwd, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, err=said[rank])
            for rank in range(count)
        ]
        for process in started:
            process.join()
        told = [file.read_text() for file in said]
        if any(process.exitcode for process in started):
            raise RuntimeError("\n".join(told))
        return told


def start_module(
    words: Sequence[str],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    out: str | Path = os.devnull,
    err: str | Path = os.devnull,
) -> multiprocessing.process.BaseProcess:
    """``python -m WORDS``, begun; ``out`` and ``err`` are files."""
    environment = {**os.environ, **(env or {})}
    process = _CONTEXT.Process(
        target=_become, args=(list(words), str(cwd or Path.cwd()), environment, str(out), str(err))
    )
    process.start()
    return process


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if threads := env.get("OMP_NUM_THREADS"):  # only read when torch is imported
        torch.set_num_threads(int(threads))
    sys.path[0] = ""
    sys.argv = list(words)  # the first becomes the module's file
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None
