"""Sparse Mixture-of-Experts layers for MMDetection 3.x.

``custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)``
in a config registers everything. Without MMDetection only the torch part,
:mod:`mmdet_moe.layers`, can be used.
"""
import warnings

from .requirements import missing_openmmlab
from .version import __version__

__all__ = ['__version__']

_missing = missing_openmmlab()
if _missing is None:
    # Importing them registers their classes.
    from . import evaluation, hooks, models, visualization  # noqa: F401
else:
    warnings.warn(f'{_missing} Only mmdet_moe.layers can be used.')


def __getattr__(name: str):
    if _missing is not None and name in ('evaluation', 'hooks', 'models',
                                           'visualization'):
        raise ImportError(_missing)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
