"""Several processes training one network, each on its own device, by the mathematics of one.

Of N processes with a batch of B slices each, a step is that of one process with a batch of N x B: batch norm takes its
statistics over all of them, and the loss is that of the whole batch. Only the order of additions differs, and dropout.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ichseg.errors import IchsegError, chain
from ichseg.processes import is_rank_zero, place_and_count


def join_process_group(name: str = "auto") -> torch.device:
    """Join the group that ``torchrun`` describes and return this process's device.

    Args:
        name: ``auto``: NCCL and one GPU per process where there are GPUs, gloo and the CPU elsewhere; ``cuda`` or
            ``cpu``: only the one or the other.

    Raises:
        IchsegError: not started by torchrun, more processes than GPUs, or a device that several cannot share.
    """
    if "LOCAL_RANK" not in os.environ:
        raise IchsegError(
            "multi-process training must be started with torchrun, e.g. torchrun --nproc_per_node=2 -m ..."
        )
    local = int(os.environ["LOCAL_RANK"])
    kind = str(name).lower().replace("gpu", "cuda")
    if kind not in ("auto", "cpu", "cuda"):
        raise IchsegError(f"device '{name}': with torchrun, each process has a GPU of its own; use auto, cpu or cuda")
    count = 0 if kind == "cpu" else torch.cuda.device_count()
    if (count or kind == "cuda") and local >= count:
        raise IchsegError(f"process {local} has no GPU: {count} found; lower --nproc_per_node")
    if not dist.is_initialized():
        store, place, processes = next(rendezvous("env://"))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun on one machine keeps its store over restarts, and with it the addresses of processes that ended.
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
        dist.init_process_group("nccl" if count else "gloo", store=store, rank=place, world_size=processes)
        if place:
            logging.getLogger("ichseg").setLevel(logging.WARNING)  # the first process tells the rest
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


def is_lost_process(error: BaseException) -> bool:
    """True for what is raised when another process of the group has ended."""
    return any(words in str(link) for link in chain(error) for words in ("by peer", "remote process exited"))


def only_first_process_goes_on() -> None:
    """End a group: the first process leaves it, the others end. Nothing, outside of a group."""
    first = is_rank_zero()
    leave_process_group()
    if not first:
        exit_at_once()


# --- one batch over all processes -------------------------------------------------------------------------------------
def data_parallel(network: nn.Module) -> nn.parallel.DistributedDataParallel:
    """The network, placed on this process's device, for all processes, with batch norm over the slices of all of them.

    On a GPU, that is torch's ``SyncBatchNorm``, which takes no tensors on a CPU.
    """
    if dist.get_backend() == "nccl":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.BatchNorm2d:
                    setattr(parent, name, GroupBatchNorm.like(child))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the argument has a new name since torch 2.12
        # Statistics are the same everywhere, and validation may take a batch more in one process than in another.
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class GroupBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the batches of all processes, which must be of one size; alone, and in evaluation, as it.

    What ``nn.SyncBatchNorm`` is on a GPU.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> GroupBatchNorm:
        """With the settings and the state of another."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.load_state_dict(norm.state_dict())
        for tensor in norm.state_dict().values():
            if tensor.is_floating_point():
                made.to(tensor.device, tensor.dtype)
        return made.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        count = place_and_count()[1]
        if not self.training or count == 1:
            return super().forward(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        # In double precision the difference of squares loses nothing, and one exchange is enough.
        moments = torch.stack([mean.double(), variance.double() + mean.double() ** 2])
        mean, square = _Sum.apply(moments) / count
        variance = square - mean**2
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach(), count * input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt()
        factor, shift = scale.to(values.dtype), (mean * scale).to(values.dtype)
        result = values * factor[:, None, None] - shift[:, None, None]
        if self.affine:
            result = result * self.weight[:, None, None] + self.bias[:, None, None]
        return result.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        new = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), new)
        self.running_var.lerp_((variance * values / max(values - 1, 1)).to(self.running_var.dtype), new)


def whole_batch(part: Any) -> Any:
    """The batches of all processes as one: tensors (B, ...) -> (processes x B, ...), dictionaries of them alike.

    The gradient goes to this process's own part. Batches must be of one size.
    """
    if isinstance(part, dict):
        return {key: whole_batch(value) for key, value in part.items()}
    place, count = place_and_count()
    if count == 1:
        return part
    parts = [torch.empty(part.shape, dtype=part.dtype, device=part.device) for _ in range(count)]
    dist.all_gather(parts, part.detach().contiguous())
    parts[place] = part
    return torch.cat(parts)


def of_first_process(values: np.ndarray, device: torch.device | str) -> np.ndarray:
    """The values that the first process of the group has; they have one shape in all."""
    if place_and_count()[1] == 1:
        return values
    sent = torch.from_numpy(values).to(device)
    dist.broadcast(sent, 0)
    return sent.cpu().numpy()


class WholeBatchLoss(nn.Module):
    """A loss of the batches of all processes as one: Dice over a batch is no mean of the Dice over its parts.

    Args:
        loss: of logits and their target.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        """Scalar, the same in all processes."""
        count = place_and_count()[1]
        if count == 1 or not torch.is_grad_enabled():
            return self.loss(logits, target)
        loss = self.loss(whole_batch(logits), whole_batch(target))
        # Of the gradients that the processes' own slices give, DistributedDataParallel takes the mean: we want the sum.
        return loss.detach() + count * (loss - loss.detach())
