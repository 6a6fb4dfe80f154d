"""From a dense detector to one with experts: config, weights, comparison.

Importing it registers ``init_cfg=dict(type='Upcycle', ...)``.
"""
from .init_upcycle import UpcycleInit

__all__ = ['UpcycleInit']
