"""MMEngine hooks; importing them registers them."""
from .moe_hook import MoEHook

__all__ = ['MoEHook']
