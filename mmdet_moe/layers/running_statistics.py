"""Running statistics of BatchNorm in experts, the same on all ranks.

Ranks give different samples to an expert, and some give it none. What is
saved is one rank's, so the others' would be lost; and an expert that is idle
on that rank would keep mean 0 and variance 1.
"""
from typing import List, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .distributed import world_size


class SharedStatistics:
    """Brings the running statistics of all ranks together.

    Args:
        experts: Modules whose BatchNorm layers are meant; the same ones, with
            the same statistics, on all ranks.
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        norms = [] if world_size() == 1 else [
            m for module in experts for m in module.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
            and m.running_mean is not None
        ]
        self._norms = norms
        self._before = self._state()

    @torch.no_grad()
    def synchronise(self) -> None:
        """Each layer moves by the mean of what it moved by on those ranks
        where it was run since the last time. One collective; every rank must
        call it."""
        if not self._norms:
            return
        now = self._state()
        steps = torch.stack(
            [a[-1] - b[-1] for a, b in zip(now, self._before)])
        moved = torch.cat([
            (a - b) * (busy > 0) for a, b, busy in zip(now, self._before, steps)
        ])
        packed = torch.cat([moved, (steps > 0).to(moved)])
        dist.all_reduce(packed)
        busy = packed[-len(now):].clamp_min(1)
        moved = packed[:-len(now)].split([len(a) for a in now])
        for norm, old, change, number in zip(self._norms, self._before, moved,
                                             busy):
            state = old + change / number
            mean, var, batches = state.split(
                [len(norm.running_mean), len(norm.running_var), 1])
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
            norm.num_batches_tracked.copy_(batches[0].round())
        self._before = self._state()

    def _state(self) -> List[Tensor]:
        """For each layer mean, variance and number of batches, joined."""
        return [
            torch.cat([
                n.running_mean.double(),
                n.running_var.double(),
                n.num_batches_tracked.double().view(1)
            ]) for n in self._norms
        ]
