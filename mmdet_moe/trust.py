"""Checkpoints from outside: they are read, and what is in them is not run.

A checkpoint is a pickle, and a pickle may run any code when it is read.
MMEngine tries to read the weights only; where that fails, it reads all. And
among what it allows there is ``getattr``, with which a pickle can reach, and
change, the list of what is allowed.
"""
import os
import zipfile
from pickle import UnpicklingError
from typing import Any, Callable, List

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint

from .files import DataError

_mmengine_allows = checkpoint.get_torch_safe_globals

#: With the value 1, checkpoints may run the code that is in them.
RUN_CODE = 'MMDET_MOE_RUN_CODE_IN_CHECKPOINTS'
#: What torch looks at whenever it loads something.
_WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


def _method_of_history(owner: Any, name: str) -> Callable:
    """What a checkpoint needs ``getattr`` for: the log of MMEngine."""
    if owner is HistoryBuffer and name in vars(HistoryBuffer) and (
            not name.startswith('_')):
        return getattr(owner, name)
    raise UnpicklingError(f'a checkpoint may not have getattr(..., {name!r})')


def safe_globals() -> List:
    """What a checkpoint may call, as ``torch.serialization`` takes it: what
    MMEngine allows, with a ``getattr`` for its log only."""
    return [(_method_of_history, 'builtins.getattr')
            if allowed is getattr else allowed
            for allowed in _mmengine_allows()]


def load_weights_only() -> None:
    """Have torch and MMEngine refuse, from now on and whoever calls them, to
    load what is more than tensors, numbers and texts; not if ``RUN_CODE`` is
    set."""
    if os.environ.get(RUN_CODE) != '1':
        os.environ[_WEIGHTS_ONLY] = '1'
        checkpoint.get_torch_safe_globals = safe_globals


def check_checkpoint(path: str) -> None:
    """Refuse a file that is no checkpoint, or that would run code.

    Raises:
        DataError: It is not there, not whole, or would run code; the last of
            these not if ``RUN_CODE`` is set.
    """
    if '://' in path:
        return
    path = os.path.expanduser(path)  # as MMEngine does
    if not os.path.isfile(path):
        raise DataError(f'the checkpoint {path} does not exist')
    if os.environ.get(RUN_CODE) == '1':
        return
    with open(path, 'rb') as file:
        is_zip = file.read(2) == b'PK'
    if is_zip and not zipfile.is_zipfile(path):
        raise DataError(f'the checkpoint {path} is not complete: the file '
                        'ends too early')
    try:
        with torch.serialization.safe_globals(safe_globals()):
            torch.load(path, map_location='cpu', weights_only=True,
                       # Nothing of the tensors is read.
                       mmap=is_zip)
    except Exception:
        raise DataError(
            f'{path} is not a checkpoint, or is not complete, or holds more '
            'than tensors, numbers and texts: to read that could run code. If '
            'you trust whoever made it, add --run-code-in-checkpoints'
        ) from None
