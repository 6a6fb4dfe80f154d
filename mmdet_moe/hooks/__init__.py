"""MMEngine hooks; importing them registers them."""
from .finite_loss_hook import FiniteLossHook
from .freeze_hook import FreezeHook
from .kmeans_hook import KMeansHook
from .moe_hook import MoEHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .seed_hook import SeedHook

__all__ = [
    'FiniteLossHook', 'FreezeHook', 'KMeansHook', 'MoEHook',
    'PlainCheckpointHook', 'SeedHook'
]
