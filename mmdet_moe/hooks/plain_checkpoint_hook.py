from collections import OrderedDict
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, print_log
from mmengine.registry import HOOKS
from torch import Tensor


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leaves out of a checkpoint what would make it more than data.

    A OneCycle scheduler has one of its own methods among its attributes; a
    metric may return a number of NumPy, a config a dict of its own class.
    Written as objects, they could only be read by running code, which is
    refused (see SECURITY.md). Dicts and numbers become plain ones; methods are
    left out, as a scheduler that goes on has them anyhow; other objects are
    left out with a warning.
    """
    priority = 'LOWEST'  # after what others add

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        for key in [k for k in checkpoint if 'state_dict' not in k]:
            checkpoint[key] = _plain(checkpoint[key], key)


#: What is left out.
_NOTHING = object()


def _plain(value: Any, name: str) -> Any:
    """A value without objects, for a checkpoint.

    Args:
        value: Anything.
        name: Where it is, for the warning.
    """
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.hasobject:
        value = value.tolist()
    if value is None or isinstance(value, (Tensor, HistoryBuffer, np.ndarray)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    for kind in (bool, int, float, complex, str, bytes):  # a bool is an int
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((key, x) for key, item in value.items()
                    if (x := _plain(item, f'{name}.{key}')) is not _NOTHING)
    for kind in (list, tuple, set):
        if isinstance(value, kind):
            return kind(x for i, item in enumerate(value)
                        if (x := _plain(item, f'{name}.{i}')) is not _NOTHING)
    if not callable(value):
        print_log(f'{name} is not written into the checkpoint: it is a '
                  f'{type(value).__name__}, and no tensor, number or text',
                  'current', level=30)
    return _NOTHING
