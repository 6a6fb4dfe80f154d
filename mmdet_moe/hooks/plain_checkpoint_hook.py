from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import HOOKS
from torch import Tensor, nn

from mmdet_moe.trust import readable


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leaves out of a checkpoint what would make it more than data.

    A OneCycle scheduler has one of its own methods among its attributes; a
    metric may return a number of NumPy, a config a dict of its own class.
    Written as objects, they could only be read by running code, which is
    refused (see SECURITY.md). Dicts, sequences and numbers become plain ones;
    methods are left out, as a scheduler that goes on has them anyhow; other
    objects that could not be read are left out with a warning.
    """
    priority = 'LOWEST'  # after what others add

    def __init__(self) -> None:
        self._left_out = set()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        for key, value in checkpoint.items():
            if 'state_dict' not in key:  # has more than its items
                checkpoint[key] = _plain(value, key, self._warn)

    def _warn(self, name: str, value: Any) -> None:
        if name not in self._left_out:
            self._left_out.add(name)
            print_log(f'{name} is not written into the checkpoint: it is a '
                      f'{type(value).__name__}, and no tensor, number or text',
                      'current', level=30)


#: What is left out.
_NOTHING = object()
#: Numbers of arrays that every version of NumPy and PyTorch reads.
_NUMBERS = '?bBhHiIlLqQefd'


def _plain(value: Any, name: str, warn: Callable[[str, Any], None]) -> Any:
    """A value without objects, for a checkpoint.

    Args:
        value: Anything.
        name: Where it is.
        warn: Called with the name and the value of what is left out.
    """
    if isinstance(value, np.generic):
        value = (
            float(value) if isinstance(value, np.floating) else
            complex(value) if isinstance(value, np.complexfloating) else
            value.item())
    if isinstance(value, np.ndarray) and not (
            type(value) is np.ndarray and value.dtype.char in _NUMBERS):
        value = value.tolist()
    if value is None or type(value) in (
            Tensor, nn.Parameter, HistoryBuffer, np.ndarray):
        return value
    for kind in (bool, int, float, complex, str, bytes, bytearray):
        if isinstance(value, kind):  # a bool is an int, too
            return kind(value)
    if isinstance(value, Mapping):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        pairs = (
            [_plain(x, f'{name}.{key}', warn) for x in (key, item)]
            for key, item in value.items())
        return kind((key, x) for key, x in pairs
                    if key is not _NOTHING and x is not _NOTHING)
    if isinstance(value, (Sequence, set, frozenset)):
        kind = next((kind for kind in (tuple, set, frozenset)
                     if isinstance(value, kind)), list)
        items = (_plain(x, f'{name}.{i}', warn) for i, x in enumerate(value))
        return kind(x for x in items if x is not _NOTHING)
    if readable(value):
        return value
    if not callable(value):
        warn(name, value)
    return _NOTHING
