"""MMEngine hooks; importing them registers them."""
from .freeze_hook import FreezeHook
from .kmeans_hook import KMeansHook
from .moe_hook import MoEHook

__all__ = ['FreezeHook', 'KMeansHook', 'MoEHook']
