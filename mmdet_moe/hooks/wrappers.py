"""What MMEngine wraps: the model, and the optimizer."""
from typing import List

from mmengine.model import is_model_wrapper
from mmengine.optim import BaseOptimWrapper
from torch import nn
from torch.optim import Optimizer


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DistributedDataParallel and the like."""
    return model.module if is_model_wrapper(model) else model


def optimizers_of(wrapper) -> List[Optimizer]:
    """The optimizers of one optimizer wrapper, or of a dict of them."""
    wrappers = [wrapper] if isinstance(wrapper, BaseOptimWrapper) else (
        wrapper.values())
    return [w.optimizer for w in wrappers]


def stepped(wrapper) -> bool:
    """Whether the gradients were used up, be it by a step that a gradient
    scaler skipped; with several wrappers, or another kind of them, there is no
    accumulation."""
    return not hasattr(wrapper, 'should_update') or wrapper.should_update()
