"""FLOPs of what is executed, by part of a model.

Counted by :class:`torch.utils.flop_counter.FlopCounterMode`: matrix products,
convolutions and attention, 2 FLOPs for each multiply-add. It watches the
operators that run, so experts count as they are routed, and convolutions that
are merged (:mod:`mmdet_moe.layers.merging`) count as the grouped convolution
that they became. Counters that put hooks on the modules would see another run:
convolutions with hooks are not merged.
"""
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    Mapping,
    Set,
    Tuple,
)

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of a run.

    Attributes:
        total: All of them.
        by_part: Those of each part that has any.
        not_counted: Operators that ran and are not in the FLOPs, without
            views and element-wise ones: first the compiled operators of MMCV
            (``'mmcv.nms'``), then those of PyTorch (``'aten.sort'``).
    """
    total: int
    by_part: Dict[str, int]
    not_counted: Tuple[str, ...]


def count_flops(run: Callable[[], Any],
                owners: Mapping[nn.Module, str]) -> FlopCount:
    """Run something without gradients and count its FLOPs.

    Args:
        run: What to run.
        owners: The part that a module belongs to. What runs inside of several
            parts belongs to the outermost one.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_decomposed_attention())
        compiled = stack.enter_context(_compiled_calls('mmcv'))
        # Entered before the counter, this mode is given what the counter
        # executes, that is operators that were already decomposed.
        executed = stack.enter_context(_Executed())
        counter = stack.enter_context(
            FlopCounterMode(
                display=False,
                custom_mapping=_MORE))
        by_part = stack.enter_context(_by_part(counter, owners))
        run()
    counted = map(str, counter.get_flop_counts().get('Global', {}))
    return FlopCount(counter.get_total_flops(), dict(by_part),
                     (*sorted(compiled),
                      *sorted(executed.operators - set(counted))))


@contextmanager
def _by_part(counter: FlopCounterMode,
             owners: Mapping[nn.Module, str]) -> Iterator[Counter]:
    """FLOPs of each part while the context lasts.

    By hooks for all modules rather than on each: see the module's docstring.
    """
    flops, totals = Counter(), []

    def enter(module: nn.Module, args: tuple) -> None:
        if module in owners:
            totals.append(counter.get_total_flops())

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        if module in owners:
            before = totals.pop()
            if not totals:
                flops[owners[module]] += counter.get_total_flops() - before

    hooks = (register_module_forward_pre_hook(enter),
             register_module_forward_hook(leave))
    try:
        yield flops
    finally:
        for hook in hooks:
            hook.remove()


class _Executed(TorchDispatchMode):
    """Names of the operators that are executed, as ``'aten.sort'``."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not (func.is_view or torch.Tag.pointwise in func.tags):
            self.operators.add('.'.join(str(func).split('.')[:2]))
        return func(*args, **(kwargs or {}))


@contextmanager
def _compiled_calls(package: str) -> Iterator[Set[str]]:
    """Functions of a package's compiled extension that are called.

    They are no operators of PyTorch, so no dispatch mode sees them.
    """
    names, before = set(), sys.getprofile()

    def watch(frame, event: str, function: Any) -> None:
        if event == 'c_call' and str(getattr(
                function, '__module__', None)).startswith(f'{package}.'):
            names.add(f'{package}.{function.__name__}')

    sys.setprofile(watch)
    try:
        yield names
    finally:
        sys.setprofile(before)


@contextmanager
def _decomposed_attention() -> Iterator[None]:
    """Attention as matrix products.

    The counter knows the fused kernels of GPUs, but neither that of the CPU
    nor the fast path of ``nn.MultiheadAttention`` in evaluation mode.
    """
    with _math_attention(), _slow_path():
        yield


@contextmanager
def _slow_path() -> Iterator[None]:
    """``nn.MultiheadAttention`` without the fast path of evaluation mode.

    Before PyTorch 2.2 it cannot be switched off; gradients do so.
    """
    if not hasattr(torch.backends, 'mha'):
        with torch.enable_grad():
            yield
        return
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _math_attention() -> ContextManager:
    """Scaled dot-product attention without fused kernels."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:  # before PyTorch 2.3, where the CPU had no other
        return torch.backends.cuda.sdp_kernel(
            enable_flash=False, enable_mem_efficient=False)
    return sdpa_kernel(SDPBackend.MATH)


def _addmm_flops(input_shape, a_shape, b_shape, *args, out_shape=None,
                 **kwargs) -> int:
    """FLOPs of adding (n, m) @ (m, p) in place."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


def _grouped_flops(a_shape, b_shape, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of rows (n, m), each times one of E matrices (E, m, p)."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[2]


#: What PyTorch's counter does not know.
_MORE = {
    # the product in MMCV's deformable convolutions on a CPU
    torch.ops.aten.addmm_: _addmm_flops,
    **({torch.ops.aten._grouped_mm: _grouped_flops}
       if hasattr(torch.ops.aten, '_grouped_mm') else {})
}
