"""Mixed precision that needs no GPU."""
from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs the forward pass under autocast with bfloat16, on any device.

    bfloat16 has the range of float32, so no loss is scaled. MMEngine's
    AmpOptimWrapper is for accelerators only. ``optim_wrapper =
    dict(type='BFloat16OptimWrapper', ...)`` in a config.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(
                device, dtype=torch.bfloat16):
            yield
