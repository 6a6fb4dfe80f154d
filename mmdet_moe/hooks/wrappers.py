"""What MMEngine wraps: the model, and the optimizer."""
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import unwrap
from types import MethodType
from typing import Callable, Iterator, List, Optional

from mmengine.model import is_model_wrapper
from mmengine.optim import BaseOptimWrapper
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DistributedDataParallel and the like."""
    return model.module if is_model_wrapper(model) else model


def optimizers_of(wrapper) -> List[Optimizer]:
    """The optimizers of one optimizer wrapper, or of a dict of them."""
    return [one.optimizer for one in _each(wrapper)]


def hook_steps(optimizer: Optimizer,
               before: Optional[Callable] = None,
               after: Optional[Callable] = None) -> List[RemovableHandle]:
    """Register functions that are called with the optimizer, and more, before
    and after its steps.

    The compiler of some releases of PyTorch (2.1 for one) removes whatever
    calls such functions from ``step`` of all classes of optimizers, once
    anything is compiled. So this optimizer gets a ``step`` of its own.
    """
    step = optimizer.step

    @wraps(step)
    def plain(self: Optimizer, *args, **kwargs):
        return step(*args, **kwargs)

    optimizer.step = step if _calls_hooks(step) else MethodType(
        Optimizer.profile_hook_step(plain), optimizer)
    return [
        register(function) for register, function in (
            (optimizer.register_step_pre_hook, before),
            (optimizer.register_step_post_hook, after))
        if function is not None
    ]


def _calls_hooks(step: Callable) -> bool:
    """Whether PyTorch's wrapper is one of those around a method ``step``."""
    code = Optimizer.profile_hook_step(len).__code__
    found: List[Callable] = []
    unwrap(step, stop=lambda f: found.append(f))
    return any(getattr(f, '__code__', None) is code for f in found)


def is_skipped(optimizer: Optimizer) -> bool:
    """Whether a step that an optimizer was called for is not made: a gradient
    scaler tells fused ones to skip it, where it does not call others."""
    return bool(getattr(optimizer, 'found_inf', 0) > 0)


def has_scaler(wrapper) -> bool:
    """Whether there is a gradient scaler, which may skip steps."""
    return any(hasattr(one, 'loss_scaler') for one in _each(wrapper))


@contextmanager
def as_in_training(wrapper, model: nn.Module) -> Iterator[None]:
    """What an optimizer wrapper, or each of a dict of them, puts around a
    forward pass, such as mixed precision."""
    with ExitStack() as stack:
        for one in _each(wrapper):
            stack.enter_context(one.optim_context(model))
        yield


def stepped(wrapper) -> bool:
    """Whether the gradients were used up, be it by a step that a gradient
    scaler skipped; with several wrappers, or another kind of them, there is no
    accumulation."""
    return not hasattr(wrapper, 'should_update') or wrapper.should_update()


def _each(wrapper) -> list:
    return [wrapper] if isinstance(wrapper, BaseOptimWrapper) else list(
        wrapper.values())
