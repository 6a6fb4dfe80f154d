"""MMEngine hooks; importing them registers them."""
from .freeze_hook import FreezeHook
from .moe_hook import MoEHook

__all__ = ['FreezeHook', 'MoEHook']
