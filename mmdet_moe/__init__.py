"""Sparse Mixture-of-Experts layers for MMDetection 3.x.

``custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)``
in a config registers everything. Without MMDetection only the torch part,
:mod:`mmdet_moe.layers`, can be used.
"""
import sys
import warnings

from .requirements import Refusal, missing_openmmlab
from .version import __version__

__all__ = ['__version__']

_missing = missing_openmmlab()
if _missing is None:
    # Importing them registers their classes.
    from . import (  # noqa: F401
        conversion,
        datasets,
        detection,
        evaluation,
        hooks,
        models,
        optim,
        visualization,
        whole_files,
    )
else:
    warnings.warn(f'{_missing} Only mmdet_moe.layers can be used.')
    _refusal = Refusal(__name__, _missing)
    sys.meta_path.insert(0, _refusal)


def __getattr__(name: str):
    if _missing is not None:
        _refusal.find_spec(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
