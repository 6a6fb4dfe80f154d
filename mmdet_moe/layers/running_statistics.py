"""Running statistics of BatchNorm in experts, the same on all ranks.

Ranks give different samples to an expert, and some give it none. A checkpoint
has the statistics of one rank. Without this it would have nothing of what the
other ranks have seen, and an expert that is idle on that rank would keep mean
0 and variance 1.
"""
from typing import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .distributed import world_size


class SharedStatistics:
    """Brings the running statistics of all ranks together.

    Args:
        experts: Modules whose BatchNorm layers are kept the same. All ranks
            have the same modules, with the same statistics at first.
    """

    def __init__(self, experts: Sequence[nn.Module] = ()) -> None:
        self._norms = [] if world_size() == 1 else [
            m for module in experts for m in module.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
            and m.running_mean is not None
        ]
        if self._norms:
            self._before = self._state()

    @torch.no_grad()
    def synchronise(self) -> None:
        """Move each BatchNorm by the mean of what it moved by since the last
        time, over those ranks on which it was run.

        There is one collective, so every rank must call this.
        """
        if not self._norms:
            return
        sizes = [2 * norm.num_features + 1 for norm in self._norms]
        moved = self._state() - self._before
        batches = torch.stack([part[-1] for part in moved.split(sizes)])
        sums = torch.cat([moved, (batches > 0).to(moved)])
        dist.all_reduce(sums)
        moved, ranks = sums.split([sum(sizes), len(sizes)])
        for norm, before, part, n in zip(self._norms,
                                         self._before.split(sizes),
                                         moved.split(sizes), ranks):
            state = before + part / n.clamp_min(1)
            norm.running_mean.copy_(state[:norm.num_features])
            norm.running_var.copy_(state[norm.num_features:-1])
            norm.num_batches_tracked.copy_(state[-1].round())
        self._before = self._state()

    def _state(self) -> Tensor:
        """Mean, variance and number of batches of all layers, one after the
        other, in double precision: what is added to them again is exact."""
        return torch.cat([
            x.double().flatten() for norm in self._norms
            for x in (norm.running_mean, norm.running_var,
                      norm.num_batches_tracked)
        ])
