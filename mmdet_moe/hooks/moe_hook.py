import logging
from contextlib import ExitStack
from typing import Dict, Optional, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmdet_moe.layers import (
    MoELayer,
    StepSummary,
    collect,
    domains_are,
    force,
    moe_layers,
    real_tokens_are,
)
from mmdet_moe.layers.checks import ConfigError, check_keywords
from mmdet_moe.layers.compatibility import check_collectives
from mmdet_moe.layers.running_statistics import SharedStatistics
from mmdet_moe.models.provenance.padding import RealTokens
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.names import loss_key, step_key

from .collapse_alarm import CollapseAlarm


@HOOKS.register_module()
class MoEHook(Hook):
    """Brings the MoE layers of any detector into the training step.

    - The soft constraints of all layers are added to the losses that the
      detector returns, as ``loss_moe_{constraint}/{layer}``, and so are
      trained and logged.
    - Hard constraints move once per optimizer step that is really made, and
      are lifted when it is time.
    - Per layer and expert ``moe/{layer}/importance_{e}`` (mean weight, sums
      to 1) and ``moe/{layer}/share_{e}`` (part of the samples that it was
      selected for, sums to K at most), and of a hard constraint
      ``moe/{layer}/masked_{e}`` (part of the samples that it was masked for)
      and ``moe/{layer}/changed`` (part of the samples that went to other
      experts because of the mask) go to the message hub, and from there to
      the log file, the JSON and every visualization back end.
    - After each validation ``moe/{layer}/input_dependence`` (bits of H(mean w)
      - mean H(w)) and ``moe/{layer}/living_experts`` are logged, and a gate
      that has collapsed gets a warning, see :class:`.CollapseAlarm`.
    - The running statistics of BatchNorm in experts are the same on all
      ranks.
    - The detector reports who decided about its detections, see
      :class:`.DecisionReporter`.
    - With ``forcing`` it overrules the gates in validation and test, as in
      ``tools/test.py CONFIG CHECKPOINT --cfg-options
      custom_hooks.0.forcing.expert=2``.

    A layer whose parameters are all frozen, as in a teacher, takes no part in
    the training: it is neither constrained nor logged.

    Args:
        forcing: Keyword arguments of :func:`mmdet_moe.layers.force`:
            ``top_k``, ``expert``, ``drop``, ``replace`` or
            ``random_routing``, and ``layers`` if not all.

    Raises:
        ValueError: Before training, if the model has no MoE layer, if a
            layer with a constraint has a frozen gate or is in a module with
            ``with_cp=True``, if nothing trains a gate, or if an expert has
            SyncBatchNorm; before anything, if what is to be forced is not
            there.
        RuntimeError: A layer with a constraint was not called in a step.
    """
    # Before the LoggerHook writes, and before the EMAHook averages statistics
    # of BatchNorm, which is 'NORMAL' or, in configs of MMDetection, just above.
    priority = 'ABOVE_NORMAL'

    def __init__(self, forcing: Optional[dict] = None) -> None:
        self.forcing = None if forcing is None else check_keywords(
            'MoEHook.forcing', forcing, force, reserved=('model', ))
        self._layers: Dict[str, MoELayer] = {}
        self._summaries: Dict[str, StepSummary] = {}
        self._statistics = SharedStatistics()
        self._handles: list = []

    def before_run(self, runner) -> None:
        model = _unwrapped(runner.model)
        if moe_layers(model):
            report_decisions(model)
        if self.forcing is not None:
            force(model, **self.forcing)

    def before_train(self, runner) -> None:
        model = _unwrapped(runner.model)
        layers = moe_layers(model)
        if not layers:
            raise ConfigError(
                'custom_hooks: MoEHook found no MoE layer in the model; give '
                "it experts with type='MoEDetector', or remove the hook")
        self._layers = {
            name: layer
            for name, layer in layers.items() if _trainable(layer)
        }
        for name, layer in self._layers.items():
            check_collectives(layer.experts)  # sync_bn converts after the build
            _check_constraint(name, layer, model)
            _check_training(name, layer, runner)
        for name, layer in layers.items():
            layer.recording = name in self._layers
        self._statistics = SharedStatistics(
            [layer.experts for layer in self._layers.values()])
        self._handles = [
            model.register_forward_pre_hook(self._discard),
            model.register_forward_hook(self._add_losses, with_kwargs=True),
            *(optimizer.register_step_post_hook(self._move)
              for optimizer in _optimizers(runner.optim_wrapper)),
            _padding_does_not_count(model),
            *_domains_are_told(model, self._layers)
        ]

    def before_val_epoch(self, runner) -> None:
        self._alarm = CollapseAlarm(moe_layers(_unwrapped(runner.model)))

    def after_val_iter(self,
                       runner,
                       batch_idx: int,
                       data_batch: Optional[Sequence] = None,
                       outputs: Optional[Sequence] = None) -> None:
        self._alarm.see(outputs or ())

    def after_val_epoch(self,
                        runner,
                        metrics: Optional[Dict[str, float]] = None) -> None:
        for name, figures in self._alarm.result().items():
            for what, value in figures.items():
                runner.message_hub.update_scalar(
                    f'val/{step_key(name, what)}', value)

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for layer in moe_layers(_unwrapped(runner.model)).values():
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
        self._statistics.synchronise()
        keys, values = [], []
        for name, summary in self._summaries.items():
            per_expert = ['importance', 'share']
            if self._layers[name].hard_constraint is not None:
                per_expert.append('masked')
                keys.append(step_key(name, 'changed'))
                values.append(summary.changed[None])
            for what in per_expert:
                vector = getattr(summary, what)
                keys += [step_key(name, what, e) for e in range(len(vector))]
                values.append(vector)
        if not values:
            return
        # One transfer to the host for all of them.
        for key, value in zip(keys, torch.cat(values).tolist()):
            runner.message_hub.update_scalar(f'train/{key}', value)

    def _move(self, optimizer: Optimizer, *_) -> None:
        """Move the hard constraints: the optimizer has made a step."""
        # A step that a gradient scaler skips does not come here, but with
        # fused optimizers, which are told to skip it themselves.
        if getattr(optimizer, 'found_inf', 0) > 0:
            return
        for layer in self._layers.values():
            layer.step()

    def _discard(self, model: nn.Module, args) -> None:
        for layer in self._layers.values():
            layer.discard()

    def _add_losses(self, model: nn.Module, args, kwargs, output):
        if kwargs.get('mode') != 'loss' or not torch.is_grad_enabled():
            return None
        summaries = collect(self._layers)
        for name, layer in self._layers.items():
            if layer.constrained and summaries[name] is None:
                raise RuntimeError(
                    f'{name} has a constraint, but was not called in training '
                    'mode in this step, so the constraint would have no '
                    'effect: the layer is in eval mode, not in use, or under '
                    'reentrant activation checkpointing')
        self._summaries = {n: s for n, s in summaries.items() if s is not None}
        for name, summary in self._summaries.items():
            for constraint, loss in summary.losses.items():
                output[loss_key(constraint, name)] = loss
        return output


def _trainable(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _check_constraint(name: str, layer: MoELayer, model: nn.Module) -> None:
    """Refuse a constraint that could not act on the gate."""
    if not layer.constrained:
        return
    if layer.gate.learned and not _trainable(layer.gate):
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


def _check_training(name: str, layer: MoELayer, runner) -> None:
    """Refuse a gate that nothing trains; warn of what is never reached."""
    if _trainable(layer.gate) and layer.top_k == 1 < layer.num_experts and (
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


def _optimizers(wrapper) -> list:
    """The optimizers of one optimizer wrapper, or of a dict of them."""
    wrappers = [wrapper] if isinstance(wrapper, OptimWrapper) else (
        wrapper.values())
    return [w.optimizer for w in wrappers]


def _padding_does_not_count(model: nn.Module) -> RealTokens:
    """Tell the layers which tokens of encoder and decoder are real."""
    told = ExitStack()

    def tell(mask: Optional[Tensor]) -> None:
        told.close()
        if mask is not None:
            told.enter_context(real_tokens_are(mask))

    return RealTokens(model, tell)


def _domains_are_told(model: nn.Module,
                      layers: Dict[str, MoELayer]) -> list:
    """Tell the layers which domain each picture of a training step is of."""
    asking = [name for name, layer in layers.items() if any(
        soft.needs_domains for soft in layer.soft_constraints)]
    if not asking:
        return []
    told = ExitStack()

    def before(model: nn.Module, args: tuple, kwargs: dict) -> None:
        told.close()
        if kwargs.get('mode') != 'loss':
            return
        names = [s.get('domain') for s in kwargs['data_samples']]
        if None in names:
            raise ConfigError(
                f'{asking[0]} has a constraint that needs the domain of each '
                "picture: let train_dataloader's dataset be of "
                "type='DomainCocoDataset', and meta_keys of its PackDetInputs "
                "have 'domain' in them")
        told.enter_context(domains_are(names))

    def after(*_) -> None:
        told.close()

    return [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, always_call=True)
    ]


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
