"""MMEngine hooks; importing them registers them."""
from .forcing_hook import ForcingHook
from .freeze_hook import FreezeHook
from .moe_hook import MoEHook

__all__ = ['ForcingHook', 'FreezeHook', 'MoEHook']
