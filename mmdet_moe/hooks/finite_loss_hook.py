from typing import Any, Iterator, List, NamedTuple, Optional, Sequence

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from mmdet_moe.files import TrainingError
from mmdet_moe.layers.distributed import all_reduce_max

from .wrappers import optimizers_of, stepped, unwrapped

#: Steps in a row that a gradient scaler may skip for losses that are none.
MOST_SKIPPED = 10


class _Pass(NamedTuple):
    iteration: int
    batch: Any
    finite: Tensor


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training whose loss is no number, before it changes a weight.

    The error names the module that is the first to return something that is
    not finite. The last checkpoint is from before. Of several processes all
    stop, also if the loss of only one of them is no number; that takes a
    collective of one number in each step. A gradient scaler (AMP) skips such
    steps by itself: then the training stops after ten of them in a row.

    Raises:
        TrainingError: See above.
    """

    def before_train(self, runner) -> None:
        self._runner = runner
        self._passes: List[_Pass] = []  # since the last step
        self._stepping, self._skipped = False, 0
        self._now = (runner.iter, None)
        self._model = unwrapped(runner.model)
        self._handles = [
            self._model.register_forward_hook(self._see, with_kwargs=True),
            *(optimizer.register_step_pre_hook(self._before_step)
              for optimizer in optimizers_of(runner.optim_wrapper))
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
        if not stepped(runner.optim_wrapper):
            return
        if self._stepping or not self._lost():
            self._skipped = 0
        else:  # the optimizer was not called
            self._skipped += 1
            if self._skipped == MOST_SKIPPED:
                self._stop()
        self._passes, self._stepping = [], False

    def _see(self, model: nn.Module, args, kwargs, output) -> None:
        if kwargs.get('mode') == 'loss' and torch.is_grad_enabled():
            self._passes.append(_Pass(*self._now, _all_finite(output)))

    def _before_step(self, *_) -> None:
        self._stepping = True
        if self._lost():
            self._stop()

    def _lost(self) -> bool:
        """Whether a loss is no number, on any rank."""
        finite = [one.finite for one in self._passes]
        lost = ~torch.stack(finite).all() if finite else torch.zeros(
            (), dtype=torch.bool)
        device = next(self._model.parameters()).device
        return bool(all_reduce_max(lost.to(device, torch.uint8)))

    def _stop(self) -> None:
        lost = [one for one in self._passes if not one.finite]
        # All processes look for it: they may wait for each other on the way.
        which = lost[0] if lost else self._passes[-1]
        text = (f'{self._culprit(which.batch)}. No weight was changed by it, '
                'and the last checkpoint is from before. ' +
                (_flat_object(which.batch) or 'A lower learning rate, a '
                 'longer warm-up or clip_grad may help'))
        of_ranks = all_gather_object(
            (which.iteration, text) if lost else None)
        rank, (iteration, text) = next(
            (n, said) for n, said in enumerate(of_ranks) if said)
        where = f' on rank {rank}' if len(of_ranks) > 1 else ''
        raise TrainingError(f'the loss of iteration {iteration + 1} is not '
                            f'finite{where}: {text}')

    def _culprit(self, batch: Any) -> str:
        """What becomes of the same pictures, module by module."""
        found: List[str] = []

        def look(module: nn.Module, inputs: tuple, output) -> None:
            # Those inside of a module come before it.
            if not found and not _all_finite(output):
                name = f'{names[module]} ({type(module).__name__})'
                weights = all(map(_all_finite, module.parameters()))
                found.append(f'{name} returns it' if weights else
                             f'{name} has weights that are not')

        names = {m: n or 'the model' for n, m in self._model.named_modules()}
        handles = [m.register_forward_hook(look) for m in names]
        try:
            with torch.no_grad():
                data = self._model.data_preprocessor(batch, True)
                # With its wrapper, which may have the weights.
                self._runner.model(**data, mode='loss')
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else (
            'when the same pictures were looked at once more, it was')


def _flat_object(batch) -> str:
    """A sentence about the first picture of a batch in which an object has no
    width or no height; empty if there is none."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    for sample in samples if isinstance(samples, (list, tuple)) else ():
        objects = sample.get('gt_instances')
        if objects is None or 'bboxes' not in objects:
            continue
        boxes = get_box_tensor(objects.bboxes)
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            return (f'{sample.img_path} has an object without width or '
                    'height, once it is cut to the picture; is the picture '
                    'of the size that the annotation file says?')
    return ''


def _all_finite(value) -> Tensor:
    """Whether all numbers of a tensor, or of tensors in dicts and sequences,
    are finite; a scalar."""
    parts = [x.isfinite().all() for x in _tensors(value)]
    return torch.stack(parts).all() if parts else torch.tensor(True)


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
