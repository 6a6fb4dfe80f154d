"""Pyramid levels of detections and objects of single-stage detectors."""
import copy
import math
import sys
from contextlib import contextmanager
from typing import Iterator, List, Optional, Sequence

import torch
from mmdet.structures.bbox import get_box_tensor, scale_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.models.provenance import Origin, Provenance

from .assignment import training_outs, training_rule

#: Differences smaller than this are rounding: of scores, and of boxes relative
#: to their size.
ROUNDING = 1e-7


class LevelProvenance(Provenance):
    """Pyramid levels of a single-stage detector's detections and objects.

    The answers come from methods that every head with priors has, so heads
    are not told apart:

    - A detection is of the level among whose candidates it is. The head is
      asked for the candidates of one level: it is shown maps of size zero for
      all others, and suppresses nothing.
    - An object is of the level of the prior that the head's training assigner
      gives to it; of several priors the one with the largest overlap decides.
      A head that instead has a range of distances for each level (FCOS) puts
      an object on the level on which most locations are positive for it.

    A head whose loss weighs the levels of an object (AutoAssign, FoveaBox,
    FreeAnchor, FSAF) has no such rule. PAA assigns twice, and its first
    assignment counts. RepPoints assigns twice, and the assignment to refined
    boxes counts, from which it learns the classes. TOOD's assigner is the one
    of the current epoch, or outside of a training that of its end.

    Levels are counted as the head counts them, mostly from the finest.

    Args:
        detector: Has a ``bbox_head`` with priors, and no ``roi_head``.
    """
    heads = ('bbox_head.', )

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.head = detector.bbox_head
        self.num_levels = self.head.prior_generator.num_levels
        self._features: Optional[tuple] = None
        self._outs: Optional[tuple] = None

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether the detector has one stage, whose head has priors."""
        head = getattr(detector, 'bbox_head', None)
        return (not hasattr(detector, 'roi_head')
                and hasattr(head, 'predict_by_feat')
                and hasattr(head, 'prior_generator'))

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one prediction: the head's inputs and outputs are kept."""
        self._features = self._outs = None
        handle = self.head.register_forward_hook(self._keep)
        try:
            yield
        finally:
            handle.remove()

    def _keep(self, head: nn.Module, features: tuple, outs: tuple) -> None:
        self._features, self._outs = features, outs
        self.level_sizes = [tuple(x.shape[-2:]) for x in outs[0]]

    @torch.no_grad()
    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        """The levels of the detections of a picture.

        A detection is the candidate of its class that has its box and its
        score. One of these may differ: the box if the head averages boxes
        (PAA), the score if its suppression changes scores (Soft-NMS). The
        level is -1 if there is no candidate of that class.

        Raises:
            RuntimeError: No prediction was watched.
        """
        outs = _of_picture(self._watched(), picture)
        near = found.to(outs[0][0].device)
        distance, levels = torch.stack([
            _distances(near, self._candidates(outs, level, meta))
            for level in range(self.num_levels)
        ]).min(dim=0)
        levels = levels.where(distance < math.inf, levels.new_tensor(-1))
        return _on(levels.to(found.labels.device))

    def _candidates(self, outs: Sequence, level: int,
                    meta: dict) -> InstanceData:
        """What one level of a picture detects, before suppression."""
        cut = [
            out if isinstance(out, Tensor) else
            [x if i == level else x[..., :0, :0] for i, x in enumerate(out)]
            for out in outs
        ]
        # PAA refuses ``with_nms=False``, but every head leaves out an NMS that
        # is None.
        cfg = ConfigDict(self.head.test_cfg, nms=None, max_per_img=sys.maxsize)
        # PAA averages boxes after the NMS, one by one, which takes too long for
        # all candidates.
        head = copy.copy(self.head)
        head.with_score_voting = False
        return head.predict_by_feat(
            *cut, batch_img_metas=[meta], cfg=cfg, rescale=True)[0]

    @torch.no_grad()
    def objects(self, objects: Sequence[InstanceData],
                metas: Sequence[dict]) -> Optional[List[Origin]]:
        """The levels of annotated objects, by the rule of the training.

        The level is -1 for an object that no prior is trained on. A head that
        returns other maps in training than in prediction (VFNet, RepPoints)
        is run once more, on the features that it saw.

        Raises:
            RuntimeError: No prediction was watched.
        """
        rule, outs = training_rule(self.head), self._watched()
        if rule is None:
            return None
        outs = training_outs(self.head, self._features, outs)
        origins = []
        for picture, (one, meta) in enumerate(zip(objects, metas)):
            maps = _of_picture(outs, picture)
            levels = rule(self.head, maps, _seen(one, meta, maps), meta)
            if levels is None:
                return None
            origins.append(_on(levels[:len(one)].to(one.labels.device)))
        return origins

    def _watched(self) -> tuple:
        if self._outs is None:
            raise RuntimeError(
                'no prediction was watched: run the detector inside of '
                'watch() before asking where its detections come from')
        return self._outs


def _on(levels: Tensor) -> Origin:
    return Origin(levels, torch.full_like(levels, -1))


def _of_picture(outs: Sequence, picture: int) -> List:
    """The outputs of a head, each one map or a list of maps, for one picture
    out of the batch: a batch of one."""
    one = slice(picture, picture + 1)
    return [
        out[one] if isinstance(out, Tensor) else [x[one] for x in out]
        for out in outs
    ]


def _distances(found: InstanceData, candidates: InstanceData) -> Tensor:
    """How far n detections are from the nearest candidate of their class.

    The distance is the product of those of box and score: small if either is
    the same, smallest if both are.

    Returns:
        (n,), infinite where there is no candidate of that class.
    """
    boxes = get_box_tensor(found.bboxes).float()
    extent = (boxes[:, 2:] - boxes[:, :2]).sum(dim=1, keepdim=True)
    by_box = torch.cdist(
        boxes, get_box_tensor(candidates.bboxes).float(),
        p=math.inf) / extent.clamp(min=1)
    by_score = (found.scores[:, None] - candidates.scores).abs()
    distances = ((by_box + ROUNDING) * (by_score + ROUNDING)).masked_fill(
        found.labels[:, None] != candidates.labels, math.inf)
    # The column is for levels without candidates.
    return torch.cat(
        (distances, distances.new_full((len(boxes), 1), math.inf)),
        dim=1).amin(dim=1)


def _seen(objects: InstanceData, meta: dict, maps: Sequence) -> InstanceData:
    """Objects in the coordinates of the head's input.

    In place of none there is one as large as the picture: whether a head has
    a rule may not depend on the picture.
    """
    like = maps[0][0]
    if len(objects) == 0:
        height, width = meta['img_shape'][:2]
        return InstanceData(
            bboxes=like.new_tensor([[0, 0, width, height]]),
            labels=like.new_zeros(1, dtype=torch.long))
    boxes = get_box_tensor(objects.bboxes).to(like.device)
    return InstanceData(
        bboxes=scale_boxes(boxes, meta.get('scale_factor', (1, 1))),
        labels=objects.labels.to(like.device))
