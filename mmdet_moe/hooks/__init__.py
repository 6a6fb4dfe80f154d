"""MMEngine hooks; importing them registers them."""
from .finite_loss_hook import FiniteLossHook
from .freeze_hook import FreezeHook
from .kmeans_hook import KMeansHook
from .moe_hook import MoEHook
from .seed_hook import SeedHook

__all__ = [
    'FiniteLossHook', 'FreezeHook', 'KMeansHook', 'MoEHook', 'SeedHook'
]
