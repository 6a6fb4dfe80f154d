from typing import Dict, Optional, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn
from torch.optim import Optimizer

from mmdet_moe.layers import (
    MoELayer,
    StepSummary,
    collect,
    force,
    moe_layers,
)
from mmdet_moe.layers.checks import ConfigError, check_keywords
from mmdet_moe.layers.compatibility import check_collectives
from mmdet_moe.layers.idle import IdleExperts
from mmdet_moe.layers.running_statistics import SharedStatistics
from mmdet_moe.models.reporting import mode_of, report_decisions
from mmdet_moe.names import loss_key, step_key, validation_key

from .collapse_alarm import CollapseAlarm
from .telling import DomainsOfPictures, padding_does_not_count
from .training_checks import (
    check_constraint,
    check_optimizers,
    check_sharding,
    check_training,
    trainable,
)
from .wrappers import (
    hook_steps,
    is_skipped,
    optimizers_of,
    stepped,
    unwrapped,
)


@HOOKS.register_module()
class MoEHook(Hook):
    """Brings the MoE layers of any detector into the training step.

    - The soft constraints of all layers are added to the losses that the
      detector returns, as ``loss_moe_{constraint}.{layer}``, and so are
      trained and logged.
    - Hard constraints move once per optimizer step that is really made, and
      are lifted when it is time.
    - Per layer and expert ``moe.{layer}.importance_{e}`` (mean weight, sums
      to 1) and ``moe.{layer}.share_{e}`` (part of the samples that it was
      selected for, sums to K at most), and of a hard constraint
      ``moe.{layer}.masked_{e}`` (part of the samples that it was masked for)
      and ``moe.{layer}.changed`` (part of the samples that went to other
      experts because of the mask) go to the message hub, and from there to
      the log file, the JSON and every visualization back end.
    - After each validation ``moe/{layer}/input_dependence`` (bits of H(mean w)
      - mean H(w)) and ``moe/{layer}/living_experts`` are logged, and a gate
      that has collapsed gets a warning, see :class:`.CollapseAlarm`.
    - The running statistics of BatchNorm in experts are the same on all
      ranks.
    - An expert that no sample of a step went to, on any rank, stands still,
      see :class:`.IdleExperts`.
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
        self._idle = IdleExperts({})
        self._handles: list = []

    def before_run(self, runner) -> None:
        model = unwrapped(runner.model)
        if moe_layers(model):
            report_decisions(model)
        if self.forcing is not None:
            force(model, **self.forcing)

    def before_train(self, runner) -> None:
        check_sharding(runner.model)
        model = unwrapped(runner.model)
        layers = moe_layers(model)
        if not layers:
            raise ConfigError(
                'custom_hooks: MoEHook found no MoE layer in the model; give '
                "it experts with type='MoEDetector', or remove the hook")
        self._layers = {
            name: layer
            for name, layer in layers.items() if trainable(layer)
        }
        for name, layer in self._layers.items():
            check_collectives(layer.experts)  # sync_bn converts after the build
            check_constraint(name, layer, model)
            check_training(name, layer, runner)
        for name, layer in layers.items():
            layer.recording = name in self._layers
        self._statistics = SharedStatistics(
            [layer.experts for layer in self._layers.values()])
        self._idle = IdleExperts(self._layers)
        optimizers = optimizers_of(runner.optim_wrapper)
        check_optimizers(optimizers)
        self._handles = [
            model.register_forward_pre_hook(self._discard),
            model.register_forward_hook(self._add_losses, with_kwargs=True),
            *(handle for optimizer in optimizers
              for handle in hook_steps(optimizer, self._let_stand, self._move)),
            padding_does_not_count(model),
            DomainsOfPictures(model, self._layers)
        ]

    def before_val_epoch(self, runner) -> None:
        self._alarm = CollapseAlarm(moe_layers(unwrapped(runner.model)))

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
                    f'val/{validation_key(name, what)}', value)

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for layer in moe_layers(unwrapped(runner.model)).values():
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
        if stepped(runner.optim_wrapper):
            self._idle.forget()
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

    def _let_stand(self, *_) -> None:
        self._idle.take_gradients()

    def _move(self, optimizer: Optimizer, *_) -> None:
        """Move the hard constraints: the optimizer has made a step."""
        if is_skipped(optimizer):
            return
        for layer in self._layers.values():
            layer.step()

    def _discard(self, model: nn.Module, args) -> None:
        for layer in self._layers.values():
            layer.discard()

    def _add_losses(self, model: nn.Module, args, kwargs, output):
        if mode_of(args, kwargs) != 'loss' or not torch.is_grad_enabled():
            return None
        summaries = collect(self._layers)
        for name, layer in self._layers.items():
            if layer.constrained and summaries[name] is None:
                raise RuntimeError(
                    f'{name} has a constraint, but was not called in training '
                    'mode in this step, so the constraint would have no '
                    'effect: the layer is in eval mode, not in use, or under '
                    'reentrant activation checkpointing')
        self._idle.see(summaries)
        self._summaries = {n: s for n, s in summaries.items() if s is not None}
        for name, summary in self._summaries.items():
            for constraint, loss in summary.losses.items():
                output[loss_key(constraint, name)] = loss
        return output
