from typing import Iterator, List, Optional, Sequence

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from mmdet_moe.files import TrainingError
from mmdet_moe.layers.distributed import all_reduce_max

from .wrappers import optimizers_of, stepped, unwrapped


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training whose loss is no number, before it changes a weight.

    The error names the module that is the first to return something that is
    not finite. The last checkpoint is from before. Of several processes all
    stop, also if the loss of only one of them is no number; that takes a
    collective of one number in each step. Steps that a gradient scaler skips
    are none of its business.

    Raises:
        TrainingError: See above.
    """

    def before_train(self, runner) -> None:
        self._runner, self._seen = runner, []
        self._model = unwrapped(runner.model)
        self._handles = [
            self._model.register_forward_hook(self._see, with_kwargs=True),
            *(optimizer.register_step_pre_hook(self._check)
              for optimizer in optimizers_of(runner.optim_wrapper))
        ]

    def after_train(self, runner) -> None:
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence] = None) -> None:
        self._batch = data_batch

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Optional[Sequence] = None,
                         outputs: Optional[dict] = None) -> None:
        if stepped(runner.optim_wrapper):
            self._seen = []  # also if a gradient scaler has skipped the step

    def _see(self, model: nn.Module, args, kwargs, output) -> None:
        if kwargs.get('mode') == 'loss' and torch.is_grad_enabled():
            self._seen.append(_all_finite(output))

    def _check(self, *_) -> None:
        lost = ~torch.stack(self._seen).all() if self._seen else (
            torch.zeros((), dtype=torch.bool))
        device = next(self._model.parameters()).device
        if not all_reduce_max(lost.to(device, torch.uint8)):
            return
        # All processes look for it: they may wait for each other on the way.
        culprit = self._culprit()
        of_ranks = all_gather_object(
            f'{culprit}. No weight was changed by it, and the last checkpoint '
            'is from before. ' +
            (_flat_object(self._batch) or 'A lower learning rate, a longer '
             'warm-up or clip_grad may help') if lost else None)
        rank, text = next((n, t) for n, t in enumerate(of_ranks) if t)
        where = f' on rank {rank}' if len(of_ranks) > 1 else ''
        raise TrainingError(f'the loss of iteration {self._runner.iter + 1} '
                            f'is not finite{where}: {text}')

    def _culprit(self) -> str:
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
                data = self._model.data_preprocessor(self._batch, True)
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
        boxes = get_box_tensor(sample.gt_instances.bboxes)
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
