"""MMEngine hooks; importing them registers them."""
from .checkpoint_fit_hook import CheckpointFitHook, check_fit
from .finite_loss_hook import FiniteLossHook
from .freeze_hook import FreezeHook
from .kmeans_hook import KMeansHook
from .moe_hook import MoEHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .seed_hook import SeedHook
from .training_checks import check_batches

__all__ = [
    'CheckpointFitHook', 'FiniteLossHook', 'FreezeHook', 'KMeansHook',
    'MoEHook', 'PlainCheckpointHook', 'SeedHook',
    'check_batches', 'check_fit'
]
