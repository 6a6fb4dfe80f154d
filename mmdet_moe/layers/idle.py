"""Idle experts: those that no sample of an optimizer step went to."""
from typing import Dict, Mapping, Optional

import torch
from torch import Tensor, nn

from .recorder import StepSummary


class IdleExperts:
    """Lets the experts that were idle in a step stand still.

    An expert without a sample, on all ranks and in all accumulated passes, has
    no gradient: ``grad`` is None, so that neither momentum nor weight decay
    moves it. In a single process with sparse dispatch that is so by itself.
    DistributedDataParallel and the other dispatches make a gradient of 0, which
    is another thing to an optimizer: the result would depend on the number of
    processes and on the dispatch.

    Args:
        layers: The MoE layers by name, the same ones on all ranks.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = dict(layers)
        self._busy: Dict[str, Tensor] = {}

    def see(self, summaries: Mapping[str, Optional[StepSummary]]) -> None:
        """Count who was busy in a forward pass, as :func:`.collect` says."""
        for name, summary in summaries.items():
            if summary is not None:
                self._busy[name] = self._busy.get(name, 0) + summary.busy

    def take_gradients(self) -> None:
        """Before the optimizer's step: no gradient for the idle ones.

        Experts of a layer whose calls were not recorded keep theirs.
        """
        if not self._busy:
            return
        # One transfer to the host for all layers.
        busy = torch.cat(list(self._busy.values())).tolist()
        for name in self._busy:
            for expert in self._layers[name].experts:
                if not busy.pop(0):
                    for parameter in expert.parameters():
                        parameter.grad = None

    def forget(self) -> None:
        """After a step: what follows belongs to the next one."""
        self._busy = {}
