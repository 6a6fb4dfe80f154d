import logging
from typing import (
    Any,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmdet_moe.files import TrainingError
from mmdet_moe.layers.distributed import all_reduce_max
from mmdet_moe.models.reporting import mode_of

from .seed_hook import SeedHook
from .wrappers import (
    as_in_training,
    has_scaler,
    hook_steps,
    is_skipped,
    optimizers_of,
    stepped,
    unwrapped,
)

#: Steps in a row that a gradient scaler may skip.
MOST_SKIPPED = 20
KEPT = ('No weight was changed by it, and the last checkpoint is from '
        'before.')
ADVICE = 'A lower learning rate, a longer warm-up or clip_grad may help'
NOT_WRITTEN = (
    'the model has weights, or running statistics, that are not finite; they '
    f'are not written, and the last checkpoint is from before. {ADVICE}')
NOT_AGAIN = 'when the same pictures were looked at once more, it was'


class _Pass(NamedTuple):
    iteration: int
    batch: Any
    finite: Tensor


def _writes(hook: CheckpointHook, runner) -> bool:
    """Whether a hook writes a checkpoint after this iteration."""
    return not hook.by_epoch and (
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        or hook.save_last and hook.is_last_train_iter(runner))


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training whose loss, or gradient, is no number, before it
    changes a weight.

    The error names the module that is the first to return something that is
    not finite, or a parameter whose gradient is not. The last checkpoint is
    from before; weights and running statistics that are no numbers are never
    written. Of several processes all stop, also if the loss of only one of
    them is no number; that takes a collective of one number in each step. A
    gradient scaler (AMP) skips such steps by itself: then the training stops
    after twenty of them in a row.

    Where the detector itself raises an error, as the assigners of query
    detectors do at what is no number, that error stays; in a training with
    one process the module is logged beside it.

    Raises:
        TrainingError: See above.
    """
    # After the EMAHook, which changes what is written, and before the
    # CheckpointHook.
    priority = 'LOW'

    def before_train(self, runner) -> None:
        self._runner = runner
        self._passes: List[_Pass] = []  # since the last step
        self._stepping, self._skipped = False, 0
        self._now = (runner.iter, None)
        self._model = unwrapped(runner.model)
        self._handles = [
            self._model.register_forward_hook(
                self._see, with_kwargs=True, always_call=True),
            *(handle for optimizer in optimizers_of(runner.optim_wrapper)
              for handle in hook_steps(optimizer, self._before_step))
        ]

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence] = None) -> None:
        self._now = (runner.iter, data_batch)

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[Sequence] = None,
                         outputs: Optional[dict] = None) -> None:
        if any(isinstance(hook, CheckpointHook) and _writes(hook, runner)
               for hook in runner.hooks):
            self._check_weights(runner)
        if not stepped(runner.optim_wrapper):
            return
        made = self._stepping or not (has_scaler(runner.optim_wrapper)
                                      or self._lost())
        self._skipped = 0 if made else self._skipped + 1
        if self._skipped == MOST_SKIPPED:
            self._stop(f', as in {MOST_SKIPPED} iterations in a row, whose '
                       'steps were skipped')
        self._passes, self._stepping = [], False

    def after_train_epoch(self, runner) -> None:
        self._check_weights(runner)

    def _check_weights(self, runner) -> None:
        """Stop all processes before one of them writes a checkpoint."""
        model = unwrapped(runner.model)
        lost = ~_finite_state(model, model.state_dict())
        device = next(self._model.parameters()).device
        if all_reduce_max(lost.to(device, torch.uint8)):
            raise TrainingError(NOT_WRITTEN)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """The last look, at averaged weights too."""
        for key in ('state_dict', 'ema_state_dict'):
            if not _finite_state(unwrapped(runner.model),
                                 checkpoint.get(key, {})):
                raise TrainingError(NOT_WRITTEN)

    def _see(self, model: nn.Module, args, kwargs, output) -> None:
        if mode_of(args, kwargs) != 'loss' or not torch.is_grad_enabled():
            return
        if output is None:  # it has raised an error
            if get_world_size() == 1:
                self._log_culprit()
            return
        if isinstance(output, dict):  # what MMEngine adds up
            output = {k: v for k, v in output.items() if 'loss' in k}
        self._passes.append(_Pass(*self._now, all_finite(output)))

    def _before_step(self, optimizer: Optimizer, *_) -> None:
        if is_skipped(optimizer):
            return
        self._stepping = True
        gradients = [
            p.grad for group in optimizer.param_groups
            for p in group['params'] if p.grad is not None
        ]
        if self._lost(gradients):
            self._stop()

    def _lost(self, gradients: Sequence[Tensor] = ()) -> bool:
        """Whether a loss or a gradient is no number, on any rank."""
        finite = [one.finite for one in self._passes]
        finite.append(all_finite(gradients))
        device = next(self._model.parameters()).device
        lost = ~torch.stack([one.to(device) for one in finite]).all()
        return bool(all_reduce_max(lost.to(torch.uint8)))

    def _stop(self, found: str = '') -> None:
        """Say what is lost, on all ranks.

        Args:
            found: What is said of a gradient, if it is not looked up.
        """
        lost = [one for one in self._passes if not one.finite]
        # All processes look for it: they may wait for each other on the way.
        which = (lost or self._passes or [_Pass(*self._now, all_finite([]))])[
            0 if lost else -1]
        text = self._text(which.batch, self._culprit(*which[:2]))
        of_ranks = all_gather_object(
            (which.iteration, text) if lost else None)
        for rank, said in enumerate(of_ranks):
            if said is not None:
                where = f' on rank {rank}' if len(of_ranks) > 1 else ''
                raise TrainingError(f'the loss of iteration {said[0] + 1} is '
                                    f'not finite{where}: {said[1]}')
        raise TrainingError(
            f'the loss of iteration {which.iteration + 1} is finite, but the '
            f'gradient is not{found or self._whose()}. {KEPT} {ADVICE}')

    def _text(self, batch: Any, culprit: str) -> str:
        kept = '' if 'has weights' in culprit else f' {KEPT}'
        return f'{culprit}.{kept} {_flat_object(batch) or ADVICE}'

    def _whose(self) -> str:
        """Of the parameter next to the loss, where a backward pass begins."""
        names = [name for name, p in self._model.named_parameters()
                 if p.grad is not None and not all_finite(p.grad)]
        rest = f' and {len(names) - 1} more' if len(names) > 1 else ''
        return f', of {names[-1]}{rest}' if names else ''

    def _log_culprit(self) -> None:
        iteration, batch = self._now
        try:
            culprit = self._culprit(iteration, batch, self._model)
        except Exception:  # the error that is raised anyway tells more
            return
        if culprit != NOT_AGAIN:
            print_log(f'iteration {iteration + 1}: what is not finite: '
                      f'{culprit}', 'current', logging.ERROR)

    def _culprit(self, iteration: int, batch: Any,
                 model: Optional[nn.Module] = None) -> str:
        """What becomes of the same pictures, module by module.

        Args:
            model: If not with its wrapper, which may have the weights.
        """
        found: List[str] = []

        def look(module: nn.Module, inputs: tuple, output) -> None:
            # Those inside of a module come before it.
            if not found and not all_finite(output):
                name = f'{names[module]} ({type(module).__name__})'
                weights = all(map(all_finite, module.parameters()))
                found.append(f'{name} returns it' if weights else
                             f'{name} has weights that are not')

        names = {m: n or 'the model' for n, m in self._model.named_modules()}
        handles = [m.register_forward_hook(look) for m in names]
        for hook in getattr(self._runner, 'hooks', ()):
            if isinstance(hook, SeedHook):
                hook.seed_iteration(iteration)
        model = self._runner.model if model is None else model
        wrapper = self._runner.optim_wrapper
        try:
            with torch.no_grad(), as_in_training(wrapper, model):
                data = self._model.data_preprocessor(batch, True)
                model(**data, mode='loss')
        except Exception:
            if not found:
                raise
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else NOT_AGAIN


def _flat_object(batch) -> str:
    """A sentence about the first picture of a batch in which an object has no
    width or no height; empty if there is none."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    for sample in samples if isinstance(samples, (list, tuple)) else ():
        objects = sample.get('gt_instances')
        if objects is None or 'bboxes' not in objects:
            continue
        boxes = getattr(objects.bboxes, 'tensor', objects.bboxes)
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            return (f'{sample.img_path} has an object without width or '
                    'height, once it is cut to the picture; is the picture '
                    'of the size that the annotation file says?')
    return ''


def _finite_state(model: nn.Module, state: Mapping[str, Tensor]) -> Tensor:
    """Whether weights and running statistics of a model's state, or of its
    average, are finite; other buffers, such as masks, may hold what they
    like."""
    weights = {name for name, _ in model.named_parameters()}
    return all_finite([
        x for key, x in state.items()
        if key.removeprefix('module.') in weights
        or key.endswith(('running_mean', 'running_var'))])


def all_finite(value) -> Tensor:
    """Whether all numbers of a tensor, or of tensors in dicts and sequences,
    are finite; a scalar."""
    # The least and the most: NaN is both. Ten times as fast as isfinite of all.
    tensors = (x.coalesce().values() if x.is_sparse else x.detach()
               for x in _tensors(value) if x.is_floating_point())
    ends = [end for x in tensors if x.numel() for end in x.aminmax()]
    return torch.stack(ends).isfinite().all() if ends else torch.tensor(True)


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
