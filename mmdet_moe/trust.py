"""Checkpoints from outside: they are read, and what is in them is not run.

A checkpoint is a pickle, and a pickle may run any code when it is read.
PyTorch can refuse to read more than tensors and what is allowed by name. Before
PyTorch 2.6 no name could be added, so there Python's own unpickler reads
checkpoints, restricted to the same names.
"""
import _compat_pickle
import collections
import io
import os
import pickle
import re
import zipfile
from functools import cache, wraps
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import IO, Any, Callable, Dict, Iterator, List, Set, Tuple, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint
from mmengine.utils import digit_version

from .files import DataError

#: With the value 1, checkpoints may run the code that is in them.
RUN_CODE = 'MMDET_MOE_RUN_CODE_IN_CHECKPOINTS'
#: What torch looks at whenever it loads something.
_WEIGHTS_ONLY = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
#: Whether torch can be told what else to allow.
_EXTENSIBLE = digit_version(torch.__version__) >= digit_version('2.6')
_torch_load = torch.load


def _method_of_history(owner: Any, name: str) -> Callable:
    """What a checkpoint needs ``getattr`` for: the log of MMEngine."""
    if owner is HistoryBuffer and name in vars(HistoryBuffer) and (
            not name.startswith('_')):
        return getattr(owner, name)
    raise UnpicklingError(f'a checkpoint may not have getattr(..., {name!r})')


@cache
def _allowed() -> Dict[str, Any]:
    """What a checkpoint may name, beside what torch allows: plain values that
    its older versions do not know, arrays, numbers and texts of NumPy, as
    version 1 and version 2 call them, and MMEngine's log."""
    multiarray = np.core.multiarray if np.__version__ < '2' else (
        np._core.multiarray)
    return {
        'builtins.getattr': _method_of_history,
        **{
            f'builtins.{kind.__name__}': kind
            for kind in (bytearray, complex, frozenset, set, slice)
        },
        'collections.Counter': collections.Counter,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        **{
            f'{core}.multiarray.{name}': getattr(multiarray, name)
            for core in ('numpy.core', 'numpy._core')
            for name in ('_reconstruct', 'scalar')
        },
        **{
            f'{type(np.dtype(kind)).__module__}.{type(np.dtype(kind)).__name__}':
            type(np.dtype(kind))
            for kind in '?bBhHiIlLqQefdFDSU'
        }
    }


def safe_globals() -> List[Tuple[Any, str]]:
    """What a checkpoint may name, as ``torch.serialization`` takes it."""
    return [(found, name) for name, found in _allowed().items()]


def _as_bytes(text: str, encoding: str) -> bytes:
    """How the protocol of Python 2 has bytes."""
    return text.encode({'latin1': 'latin1'}[encoding])


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, restricted to what is allowed by name."""

    def find_class(self, module: str, name: str) -> Any:
        # torch.save uses the protocol of Python 2.
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        known = {**torch._weights_only_unpickler._get_allowed_globals(),
                 '_codecs.encode': _as_bytes, **_allowed()}
        try:
            return known[f'{module}.{name}']
        except KeyError:
            raise UnpicklingError(
                f'a checkpoint may not have {module}.{name}') from None


def _loads(data: bytes, **kwargs) -> Any:
    raise UnpicklingError('a checkpoint may not have tensors as bytes')


#: What ``torch.load`` takes in the place of the module ``pickle``.
_PICKLE = SimpleNamespace(
    __name__='pickle', Unpickler=_Unpickler, loads=_loads,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load())


@wraps(_torch_load)
def _restricted_load(f, map_location=None, pickle_module=None, **kwargs):
    """``torch.load`` without code."""
    kwargs.pop('weights_only', None)
    return _torch_load(f, map_location, pickle_module=_PICKLE, **kwargs)


def load_weights_only() -> None:
    """Have torch and MMEngine refuse, from now on and whoever calls them, to
    load what is more than tensors, numbers and texts; not if ``RUN_CODE`` is
    set."""
    if os.environ.get(RUN_CODE) == '1':
        return
    if _EXTENSIBLE:
        os.environ[_WEIGHTS_ONLY] = '1'
        torch.serialization.add_safe_globals(safe_globals())
        if hasattr(checkpoint, 'get_torch_safe_globals'):
            # It has getattr, with which a pickle can reach, and change, the
            # list of what is allowed.
            checkpoint.get_torch_safe_globals = safe_globals
    else:
        torch.load = _restricted_load


def _load_safely(path: Union[str, IO[bytes]], **kwargs) -> Any:
    if not _EXTENSIBLE:
        return _restricted_load(path, **kwargs)
    with torch.serialization.safe_globals(safe_globals()):
        return _torch_load(path, weights_only=True, **kwargs)


def readable(value: Any) -> bool:
    """Whether a value can be written, and read again without running code."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        _load_safely(file, map_location='cpu')
    except Exception:  # of whatever the value's class does
        return False
    return True


def check_checkpoint(path: str) -> None:
    """Refuse a file that is no checkpoint, or that would run code.

    Raises:
        DataError: It is not there, not whole, damaged, or would run code; the
            last of these not if ``RUN_CODE`` is set.
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
    if is_zip and _is_torchscript(path):
        raise DataError(f'{path} is a program of TorchScript (torch.jit.save) '
                        'and no checkpoint: name the file that the training '
                        'wrote, such as epoch_12.pth')
    try:
        content = _load_safely(path, map_location='cpu', mmap=is_zip)
    except Exception as error:
        raise DataError(_refusal(path, str(error))) from None
    if is_zip:
        _check_sums(path, content)


def _is_torchscript(path: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl')
                   for name in archive.namelist())


#: How torch, or the unpickler here, begins to say what would run code; what
#: follows is a name.
_CODE = re.compile(
    r'(?:unsupported (?:global|class):? |unrecognized function |may not have |'
    r"Can only .*? but got )(?:GLOBAL )?(?:<\w+ '?)?([\w.]+)",
    re.IGNORECASE | re.DOTALL)


def _refusal(path: str, reason: str) -> str:
    """Why a file is refused, with the reason that torch gives."""
    code = _CODE.search(reason)
    if code is not None:
        return (f'{path} holds more than tensors, numbers and texts '
                f'({code[1]}): to read that could run code. If you trust '
                'whoever made it, add --run-code-in-checkpoints')
    if 'legacy .tar' in reason:
        return (f'{path} is of the format before PyTorch 1.6, and to read that '
                'could run code. If you trust whoever made it, add '
                '--run-code-in-checkpoints')
    lines = reason.rpartition('WeightsUnpickler error: ')[2].strip().split('\n')
    return (f'{path} is not a checkpoint, or is not complete, or is of a newer '
            f'format than PyTorch {torch.__version__} reads: {lines[0]}')


def _check_sums(path: str, content: Any) -> None:
    """Compare the checksums of a file with what is in it, which torch does
    not.

    Args:
        path: The file.
        content: What was read from it.

    Raises:
        DataError: Something has changed since it was written.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            damaged = archive.testzip()
        except Exception as error:
            damaged = str(error)
    if damaged is None:
        return
    # Storages are numbered in the order in which they come.
    number = re.search(r'/data/(\d+)$', damaged)
    names = dict(enumerate(_storages('', content, set())))
    what = names.get(int(number[1]), damaged) if number else damaged
    raise DataError(f'the checkpoint {path} is damaged: {what} is not what was '
                    'written. Copy it again, or take another one')


def _storages(name: str, content: Any, seen: Set[int]) -> Iterator[str]:
    """For each storage the name of the first tensor that is in it."""
    if isinstance(content, torch.Tensor):
        storage = content.untyped_storage()._cdata
        if storage not in seen:
            seen.add(storage)
            yield name
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _storages(f'{name}.{key}'.lstrip('.'), value, seen)
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from _storages(f'{name}.{i}', value, seen)
