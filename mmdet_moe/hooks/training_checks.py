"""What would make a constraint or a gate useless, found before training."""
import logging
from typing import Sequence, Sized

from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer, moe_layers
from mmdet_moe.layers.checks import ConfigError, fail

from .wrappers import unwrapped


def trainable(module: nn.Module) -> bool:
    """Whether any parameter of a module is trained."""
    return any(p.requires_grad for p in module.parameters())


def check_batches(runner: Runner, loaders: Sequence[str]) -> None:
    """Refuse a data loader that gives no batch. It is built here, as the
    runner does when it begins.

    Args:
        runner: That has not begun.
        loaders: Those that will be used, out of ``train``, ``val``, ``test``.

    Raises:
        DataError: There are fewer images than a batch has, and the rest is
            dropped; or none.
    """
    for name in loaders:
        loop = getattr(runner, f'_{name}_loop')
        loader = loop and getattr(runner, f'{name}_loop').dataloader
        if isinstance(loader, DataLoader) and isinstance(
                loader.sampler, Sized) and not len(loader):
            raise DataError(
                f'{name}_dataloader gives no batch: it has '
                f'{len(loader.sampler)} images for a process, batch_size='
                f'{loader.batch_size} and drop_last={loader.drop_last}. Use a '
                'smaller batch_size, or drop_last=False')


def check_sharding(model: nn.Module) -> None:
    """Refuse sharding under which experts could not be trained.

    With one flat parameter for all of a module it could not be told what is
    an idle expert's. A single expert may not be sharded: it collects its
    weights from the other processes when it is called, and those on which it
    is idle do not call it.
    """
    for module in model.modules():
        if _sharded(module) and not getattr(module, '_use_orig_params', True):
            fail('strategy.model_wrapper.use_orig_params', False,
                 'True for a model with experts')
    for name, layer in moe_layers(unwrapped(model)).items():
        if any(map(_sharded, layer.experts.modules())):
            fail('strategy.model_wrapper.auto_wrap_policy',
                 f'a policy that wraps modules in {name}.experts',
                 'one that wraps whole MoE layers or larger modules')


def _sharded(module: nn.Module) -> bool:
    return isinstance(module, FullyShardedDataParallel)


def check_optimizers(optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers of which nobody is told when they make a step, such
    as those of DeepSpeed's ZeRO: idle experts would move."""
    for optimizer in optimizers:
        if not hasattr(optimizer, 'register_step_pre_hook'):
            fail('the optimizer', type(optimizer).__name__,
                 'one of torch for a model with experts; DeepSpeed has it with '
                 'zero_optimization.stage=0, and FSDPStrategy in any case')


def check_constraint(name: str, layer: MoELayer, model: nn.Module) -> None:
    """Refuse a constraint that could not act on the gate."""
    if not layer.constrained:
        return
    if layer.gate.learned and not trainable(layer.gate):
        raise ConfigError(
            f'{name}.gate is frozen, so its constraints cannot be trained; '
            'unfreeze it or set soft_constraint=None and hard_constraint=None')
    parts = name.split('.')
    for i in range(len(parts)):
        owner = '.'.join(parts[:i])
        if getattr(model.get_submodule(owner), 'with_cp', False):
            raise ConfigError(
                f'{owner or "the model"} has with_cp=True: {name} has a '
                'constraint, which activation checkpointing as MMDetection '
                'does it would leave without effect; set with_cp=False, or '
                'soft_constraint=None and hard_constraint=None')


def check_training(name: str, layer: MoELayer, runner) -> None:
    """Refuse a gate that nothing trains; warn of what is never reached."""
    if trainable(layer.gate) and layer.top_k == 1 < layer.num_experts and (
            not any(soft.trains_gate and soft.top_k_min == 1
                    for soft in layer.soft_constraints)):
        raise ConfigError(
            f'{name}: top_k=1 without a loss that trains the gate: the weight '
            'of the one expert is always 1, so the detector\'s losses do not. '
            "Add soft_constraint=dict(type='SwitchLoss'), 'EntropyLoss', "
            "'LoadLoss' or 'DatasetLoss', or take a static gate")
    lift_at = getattr(layer.hard_constraint, 'lift_at', None) or {}
    for unit, value in lift_at.items():
        end = runner.max_epochs if unit == 'epoch' else runner.max_iters
        if value >= end:  # no error: a short run to try a config is fine
            print_log(
                f'{name}.hard_constraint.lift_at={dict(lift_at)} is never '
                f'reached: this training has {end} {unit}(s); a loop by '
                'iterations has one epoch',
                logger='current',
                level=logging.WARNING)
