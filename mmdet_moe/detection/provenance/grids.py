"""Pyramid levels of the masks of SOLO."""
import inspect
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple
from unittest import mock

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.models.provenance import Origin, Provenance, Undecided

from .wrapping import observed

#: The function that selects masks, as the modules of the heads call it.
NMS = 'mask_matrix_nms'


class GridProvenance(Provenance):
    """Heads that predict a mask for each cell of a grid per level (SOLO,
    Decoupled SOLO, SOLOv2).

    The head is asked for the masks of an image a second time, with the class
    scores of level l times 2 ** l. Candidates and their order stay, so what
    matrix NMS is given in the first and in the second call differs by the
    factor of their level, exactly.

    The layers of the head see maps of other sizes than the grids, and are
    called level by level; their order says the level.
    """
    heads = ('mask_head.', )
    whole = ('mask_head.mask_feature_head.', )

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.head = detector.mask_head
        self.num_levels = self.head.num_levels
        self.level_sizes = [(n, n) for n in self.head.num_grids]
        self._nms: Optional[Tuple[tuple, tuple]] = None
        self._levels: List[Tensor] = []

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether a mask head has a grid for each level."""
        head = getattr(detector, 'mask_head', None)
        single = getattr(head, '_predict_by_feat_single', None)
        return (hasattr(head, 'num_grids') and hasattr(head, 'num_levels')
                and hasattr(_module_of(single), NMS))

    @contextmanager
    def watch(self) -> Iterator[None]:
        self._levels, self._nms = [], None
        single = self.head._predict_by_feat_single
        with observed(self.head, '_predict_by_feat_single', self._see_image,
                      self.failed), \
                observed(_module_of(single), NMS, self._see_nms, self.failed):
            yield

    def _see_nms(self, select: Callable, kept: tuple, *args,
                 **kwargs) -> None:
        self._nms = args, kept

    def _see_image(self, predict: Callable, found: InstanceData, *args,
                   **kwargs) -> None:
        """Note the level of each mask of an image, (n,)."""
        nms, self._nms = self._nms, None
        if nms is None or not len(found):  # no candidate at all
            self._levels.append(found.labels.new_zeros(0).long())
            return
        (_, _, scores, *_), (*_, kept) = nms
        levels = self._levels_of_candidates(predict, scores, args, kwargs)
        self._levels.append(levels[kept])

    def _levels_of_candidates(self, predict: Callable, scores: Tensor,
                              args: tuple, kwargs: dict) -> Tensor:
        """The levels of n candidates with scores (n,), by a second call."""
        name = 'cls_scores'
        call = inspect.signature(predict).bind(*args, **kwargs)
        cls_scores = call.arguments[name]  # (points, C), level by level
        level = torch.arange(
            self.num_levels, device=cls_scores.device).repeat_interleave(
                torch.tensor(self.head.num_grids,
                             device=cls_scores.device)**2)
        factor = (2.0**level).to(cls_scores)[:, None]
        cfg = call.arguments.get('cfg') or self.head.test_cfg
        call.arguments[name] = torch.where(
            cls_scores > cfg.score_thr, cls_scores * factor, cls_scores)
        with mock.patch.object(_module_of(predict), NMS, _stop):
            try:
                predict(*call.args, **call.kwargs)
            except _Stopped as stopped:
                return (stopped.scores / scores).log2().round().long()
        raise RuntimeError('the head has selected no masks the second time')

    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        levels = self._levels[picture].to(found.labels.device)
        unknown = Origin.unknown(len(found.labels), found.labels.device)
        if len(levels) != len(found.labels):
            return unknown
        return Origin(levels, unknown.items)

    def _levels_of(self, layer: str, sizes: Sequence[Tuple[int, ...]]
                   ) -> Optional[Tuple[int, ...]]:
        if layer.startswith(self.heads) and not layer.startswith(self.whole):
            for levels in self._by_number(layer, len(sizes)):
                return levels
        if len(sizes) == 1:
            return None
        raise Undecided(f'it sees {len(sizes)} maps, and the detections come '
                        f'from {self.num_levels} levels')


class _Stopped(Exception):

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores


def _stop(masks: Tensor, labels: Tensor, scores: Tensor, *args: Any,
          **kwargs: Any) -> None:
    raise _Stopped(scores)


def _module_of(method: Optional[Callable]) -> Any:
    """The module that a method is written in; None without a method."""
    return sys.modules.get(getattr(method, '__module__', ''))
