import logging
from typing import Dict, Optional, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from mmdet_moe.layers import MoELayer, StepSummary, force, moe_layers
from mmdet_moe.layers.checks import ConfigError, check_keywords
from mmdet_moe.layers.compatibility import check_collectives


@HOOKS.register_module()
class MoEHook(Hook):
    """Brings the MoE layers of any detector into the training step.

    - The soft constraints of all layers are added to the losses that the
      detector returns, as ``loss_moe_{constraint}/{layer}``, and so are
      trained and logged.
    - Hard constraints move once per optimizer step, and are lifted when it
      is time.
    - Per layer and expert ``moe/{layer}/importance_{e}`` (mean weight, sums
      to 1) and ``moe/{layer}/share_{e}`` (part of the samples that it was
      selected for, sums to K at most), and of a hard constraint
      ``moe/{layer}/masked_{e}`` (part of the samples that it was masked for)
      and ``moe/{layer}/changed`` (part of the samples that went to other
      experts because of the mask) go to the message hub, and from there to
      the log file, the JSON and every visualization back end.

    - With ``forcing`` it overrules the gates in validation and test, as in
      ``tools/test.py CONFIG CHECKPOINT --cfg-options
      custom_hooks.0.forcing.expert=2``.

    Args:
        forcing: Keyword arguments of :func:`mmdet_moe.layers.force`:
            ``top_k``, ``expert`` or ``drop``, and ``layers`` if not all.

    Raises:
        ValueError: Before training, if the model has no MoE layer, a layer
            with a constraint has a gate that is frozen, nothing trains a
            gate, or an expert has SyncBatchNorm; before anything, if what
            is to be forced is not there.
        RuntimeError: A layer with a constraint was not called in a step.
    """
    priority = 'NORMAL'  # before the LoggerHook writes

    def __init__(self, forcing: Optional[dict] = None) -> None:
        self.forcing = None if forcing is None else check_keywords(
            'MoEHook.forcing', forcing, force, reserved=('model', ))
        self._layers: Dict[str, MoELayer] = {}
        self._summaries: Dict[str, StepSummary] = {}
        self._handles: list = []

    def before_run(self, runner) -> None:
        if self.forcing is not None:
            force(_unwrapped(runner.model), **self.forcing)

    def before_train(self, runner) -> None:
        model = _unwrapped(runner.model)
        self._layers = moe_layers(model)
        if not self._layers:
            raise ConfigError(
                "custom_hooks: MoEHook found no MoE layer in the model; use "
                "type='MoERetinaHead' as the head or type='MoEFPN' as the "
                'neck, or remove the hook')
        for name, layer in self._layers.items():
            check_collectives(layer.experts)  # sync_bn converts after the build
            layer.recording = True
            if layer.constrained and not any(
                    p.requires_grad for p in layer.gate.parameters()):
                raise ConfigError(
                    f'{name}.gate is frozen, so its constraints cannot be '
                    'trained; unfreeze it or set soft_constraint=None and '
                    'hard_constraint=None')
            _check_training(name, layer, runner)
        self._handles = [
            model.register_forward_pre_hook(self._discard),
            model.register_forward_hook(self._add_losses, with_kwargs=True)
        ]

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for layer in self._layers.values():
            layer.recording = layer.constrained
            layer.discard()

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence] = None) -> None:
        for layer in self._layers.values():
            if layer.hard_constraint is not None:
                layer.hard_constraint.progress(
                    epoch=runner.epoch, iteration=runner.iter)

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[Sequence] = None,
                         outputs: Optional[dict] = None) -> None:
        # mmengine counts a backward pass when it is done: true means that
        # the optimizer has just made a step.
        if runner.optim_wrapper.should_update():
            for layer in self._layers.values():
                layer.step()
        if not self._summaries:
            return
        keys, values = [], []
        for name, summary in self._summaries.items():
            per_expert = ['importance', 'share']
            if self._layers[name].hard_constraint is not None:
                per_expert.append('masked')
                keys.append(f'train/moe/{name}/changed')
                values.append(summary.changed[None])
            for what in per_expert:
                vector = getattr(summary, what)
                keys += [
                    f'train/moe/{name}/{what}_{e}' for e in range(len(vector))
                ]
                values.append(vector)
        # One transfer to the host for all of them.
        for key, value in zip(keys, torch.cat(values).tolist()):
            runner.message_hub.update_scalar(key, value)

    def _discard(self, model: nn.Module, args) -> None:
        for layer in self._layers.values():
            layer.discard()

    def _add_losses(self, model: nn.Module, args, kwargs, output):
        if kwargs.get('mode') != 'loss' or not torch.is_grad_enabled():
            return None
        summaries = {n: layer.collect() for n, layer in self._layers.items()}
        for name, layer in self._layers.items():
            if layer.constrained and summaries[name] is None:
                raise RuntimeError(
                    f'{name} has a constraint, but was not called in training '
                    'mode in this step, so the constraint would have no '
                    'effect: the layer is in eval mode, not in use, or under '
                    'activation checkpointing (with_cp=True)')
        self._summaries = {n: s for n, s in summaries.items() if s is not None}
        for name, summary in self._summaries.items():
            for constraint, loss in summary.losses.items():
                output[f'loss_moe_{constraint}/{name}'] = loss
        return output


def _check_training(name: str, layer: MoELayer, runner) -> None:
    """Refuse what would have no effect in this training."""
    if layer.gate.learned and layer.top_k == 1 < layer.num_experts and not any(
            soft.balances and soft.top_k_min == 1
            for soft in layer.soft_constraints):
        raise ConfigError(
            f'{name}: top_k=1 without a loss that trains the gate: the weight '
            'of the one expert is always 1, so the detector\'s losses do not. '
            "Add soft_constraint=dict(type='SwitchLoss'), 'EntropyLoss' or "
            "'LoadLoss', or take a static gate")
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


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
