"""The few things that a layer has to agree on with the other ranks."""
import os

import torch.distributed as dist
from torch import Tensor


def launched_rank() -> int:
    """The rank that a launcher gave this process, before there is a group."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')))


def distributed() -> bool:
    """Whether this process is one of a group, of one or more."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of ranks, 1 in a single process."""
    return dist.get_world_size() if distributed() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of ``x`` over all ranks; ``x`` itself in a single process.

    DistributedDataParallel averages gradients over the R ranks. The gradient
    through this sum is R times the local one, so that the average is the
    gradient of the global value. Every rank must call it, in the same order.
    """
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total + world_size() * (x - x.detach())


def all_reduce_max(x: Tensor) -> Tensor:
    """Largest of ``x`` over all ranks; ``x`` itself in a single process."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x
