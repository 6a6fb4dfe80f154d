"""Sparse Mixture-of-Experts layers for MMDetection 3.x.

``custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)``
in a config registers everything. Without MMDetection only what is not about
detectors can be used, and without MMEngine only the torch part,
:mod:`mmdet_moe.layers`.
"""
import sys
import warnings

from .requirements import (
    Refusal,
    import_quietly,
    is_there,
    missing_engine,
    missing_mmdet,
)
from .version import __version__

__all__ = ['__version__']

_engine, _mmdet = missing_engine(), missing_mmdet()
_missing = _engine or _mmdet
if _missing is not None:
    if _engine is not None:
        warnings.warn(f'{_missing} Only mmdet_moe.layers can be used.')
    elif not is_there('mmpretrain'):
        warnings.warn(f'{_missing} Only what is not about detectors can be '
                      'used.')
    _refusal = Refusal(__name__, _missing, _engine is not None)
    sys.meta_path.insert(0, _refusal)
if _missing is None:
    import_quietly('mmdet.datasets', 'mmdet.evaluation', 'mmdet.models')
# Importing them registers their classes.
if _engine is None:
    from . import conversion, hooks, models, optim, whole_files  # noqa: F401
if _missing is None:
    from . import detection, evaluation, visualization  # noqa: F401
    from .datasets import domains  # noqa: F401


def __getattr__(name: str):
    if _missing is not None:
        _refusal.find_spec(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
