"""Several processes training one network, each on its own device."""

from __future__ import annotations

import atexit
import os
import sys

import torch
import torch.distributed as dist

from ichseg.errors import IchsegError


def join_process_group() -> torch.device:
    """Join the group that ``torchrun`` describes and return this process's device.

    NCCL and one GPU per process where there are GPUs, gloo and the CPU elsewhere.

    Raises:
        IchsegError: not started by torchrun, or more processes than GPUs.
    """
    if "LOCAL_RANK" not in os.environ:
        raise IchsegError(
            "multi-process training must be started with torchrun, e.g. torchrun --nproc_per_node=2 -m ..."
        )
    local = int(os.environ["LOCAL_RANK"])
    count = torch.cuda.device_count()
    if count and local >= count:
        raise IchsegError(f"process {local} has no GPU: {count} found; lower --nproc_per_node")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if count else "gloo")
    if not count:
        return torch.device("cpu")
    torch.cuda.set_device(local)
    return torch.device(f"cuda:{local}")


def leave_process_group() -> None:
    """Leave the group, if in one; all together, so that none is still spoken to when it ends."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def exit_at_once() -> None:
    """End this process well, but without tearing the interpreter down; the last step of a run.

    A thread of the process group that asks for the interpreter while it goes down (Python before 3.14) aborts the
    process, and torchrun calls a training that is finished a failed one.
    """
    atexit._run_exitfuncs()  # logging, worker processes: all that waits for the end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def is_rank_zero() -> bool:
    """True in the process that writes files, and in any single process."""
    return not dist.is_initialized() or dist.get_rank() == 0
