"""Pyramid levels of objects by the rule of a head's training."""
import copy
import inspect
import math
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.structures.bbox import cat_boxes
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: Finds the levels of the n objects of one picture, n > 0. Its arguments are a
#: head; the head's outputs for that picture; the objects, with boxes in the
#: coordinates of the head's input; and the sizes of the picture. It returns
#: (n,) levels, -1 for objects that no prior is trained on, or None if the head
#: turns out to have no rule.
Rule = Callable[[nn.Module, Sequence, InstanceData, dict], Optional[Tensor]]


def prior_generator(head: nn.Module) -> Optional[Any]:
    """What makes the priors of a head; None if it has none."""
    return getattr(head, 'prior_generator',
                   getattr(head, 'square_anchor_generator', None))


def training_rule(head: nn.Module) -> Optional[Rule]:
    """The rule by which a head is trained, None if it has no rule."""
    if prior_generator(head).num_levels == 1:
        return _only_level
    if not set(inspect.signature(head.loss_by_feat).parameters) <= {
            *_outs_of(head), *_ANNOTATIONS}:
        return None  # LAD: the assignment of another detector
    if _assigners(head):
        return _assigned_levels
    targets = getattr(head, '_get_targets_single', lambda: None)
    # AutoAssign inherits ranges and does not use them.
    if {'regress_ranges', 'num_points_per_lvl'} <= set(
            inspect.signature(targets).parameters):
        return _levels_in_range
    return None


def training_outs(head: nn.Module, features: tuple, outs: tuple) -> tuple:
    """The outputs of a head that its loss takes.

    Args:
        features: The head's inputs.
        outs: Its outputs in evaluation mode. If the loss takes another number
            of them, the head is run once more, as in training.
    """
    if len(outs) != len(_outs_of(head)):
        # The modules of the head stay in evaluation mode.
        training = copy.copy(head)
        training.training = True
        outs = training.forward(*features)
    return outs


def takes_masks(head: nn.Module) -> bool:
    """Whether the loss of a head takes masks, too."""
    return 'mask_feat' in _outs_of(head)


#: What a loss takes beside the outputs of the head.
_ANNOTATIONS = ('batch_gt_instances', 'batch_img_metas',
                'batch_gt_instances_ignore')


def _outs_of(head: nn.Module) -> List[str]:
    """The outputs of a head that its loss takes, which come first."""
    names = list(inspect.signature(head.loss_by_feat).parameters)
    return names[:names.index('batch_gt_instances')]


def _only_level(head: nn.Module, outs: Sequence, objects: InstanceData,
                meta: dict) -> Tensor:
    return torch.zeros_like(objects.labels)


def _levels_in_range(head: nn.Module, outs: Sequence, objects: InstanceData,
                     meta: dict) -> Tensor:
    """The level on which most locations are positive for an object.

    Each object is shown alone, so that no other one takes its locations.
    """
    points = _priors(head, outs)
    labels, *_ = head.get_targets(
        points, [objects[i:i + 1] for i in range(len(objects))])
    positive = torch.stack(
        [(x.view(len(objects), -1) < head.num_classes).sum(dim=1)
         for x in labels],
        dim=1)
    return positive.argmax(dim=1).where(
        positive.any(dim=1), positive.new_tensor(-1))


def _assigned_levels(head: nn.Module, outs: Sequence, objects: InstanceData,
                     meta: dict) -> Optional[Tensor]:
    """The level of the best of the priors that the assigner gives."""
    result = _assignment(head, outs, objects, meta)
    if result is None:
        return None
    level_of = torch.repeat_interleave(
        torch.tensor([len(p) for p in _priors(head, outs)],
                     device=result.gt_inds.device))
    if len(result.gt_inds) < len(level_of):
        level_of = level_of[_inside(head, outs, meta)]
    # gt_inds are counted from 1.
    numbers = torch.arange(
        1, len(objects) + 1, device=result.gt_inds.device)
    overlap, best = result.max_overlaps.where(
        result.gt_inds == numbers[:, None],
        result.max_overlaps.new_tensor(-math.inf)).max(dim=1)
    return level_of[best].where(overlap > -math.inf, level_of.new_tensor(-1))


def _assignment(head: nn.Module, outs: Sequence, objects: InstanceData,
                meta: dict) -> Optional[AssignResult]:
    """The objects that the head's training assigns to the priors of a picture.

    This is the first result with overlaps. An assigner that gives none has
    not chosen among levels (FSAF), or is followed by one that has
    (RepPoints). None if there is no such result.
    """
    # The copy has assigners of its own and shares all modules.
    asked = copy.copy(head)
    for name, assigner in _assigners(head).items():
        setattr(asked, name, _stopping(assigner))
    with _trained():
        try:
            asked.loss_by_feat(*outs, [objects], [meta])
        except _Assigned as assigned:
            return assigned.result
    return None


class _Assigned(Exception):
    """Ends a loss whose assignment is known."""

    def __init__(self, result: AssignResult) -> None:
        super().__init__()
        self.result = result


def _stopping(assigner: BaseAssigner) -> BaseAssigner:
    """A copy that raises :class:`_Assigned` with its result."""

    def assign(*args, **kwargs) -> AssignResult:
        result = assigner.assign(*args, **kwargs)
        if result.max_overlaps is not None:
            raise _Assigned(result)
        return result

    asked = copy.copy(assigner)
    asked.assign = assign
    return asked


@contextmanager
def _trained() -> Iterator[None]:
    """Where no training is going on, one that is over.

    TOOD changes its assigner during the training, by MMEngine's epoch.
    """
    hub = MessageHub.get_current_instance()
    over = hub.get_info('epoch') is None
    if over:
        hub.update_info('epoch', sys.maxsize)
    try:
        yield
    finally:
        if over:
            hub.pop_info('epoch')


def _assigners(head: nn.Module) -> dict:
    return {
        name: value
        for name, value in vars(head).items()
        if isinstance(value, BaseAssigner)
    }


def _sizes(outs: Sequence) -> List[tuple]:
    return [tuple(x.shape[-2:]) for x in outs[0]]


def _priors(head: nn.Module, outs: Sequence) -> List[Tensor]:
    """The priors of each level."""
    return prior_generator(head).grid_priors(
        _sizes(outs), dtype=outs[0][0].dtype, device=outs[0][0].device)


def _inside(head: nn.Module, outs: Sequence, meta: dict) -> Tensor:
    """Which of all priors lie within the picture, as training has it."""
    valid = prior_generator(head).valid_flags(
        _sizes(outs), meta['pad_shape'], device=outs[0][0].device)
    return anchor_inside_flags(
        cat_boxes(_priors(head, outs)), torch.cat(valid),
        meta['img_shape'][:2], head.train_cfg.get('allowed_border', -1))
