"""Pyramid levels of detections and objects of single-stage detectors."""
import copy
import math
import sys
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_tensor
from mmdet.structures.mask import BaseInstanceMasks, BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.detection.boxes import converted, enclosing, in_input
from mmdet_moe.models.provenance import Origin, Provenance

from .assignment import (
    prior_generator,
    takes_masks,
    training_outs,
    training_rule,
)
from .wrapping import harmless, observed

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
    FreeAnchor, FSAF), or takes the assignment of another detector (LAD), has
    no such rule. PAA assigns twice, and its first
    assignment counts. RepPoints assigns twice, and the assignment to refined
    boxes counts, from which it learns the classes. TOOD's assigner is the one
    of the current epoch, or outside of a training that of its end.

    Levels are counted as the head counts them, mostly from the finest.

    Args:
        detector: Has a ``bbox_head`` with priors, and no ``roi_head``.
    """
    heads = ('bbox_head.', )
    # RTMDet-Ins: it fuses all levels.
    whole = ('bbox_head.mask_head.', )

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.head = detector.bbox_head
        self.num_levels = prior_generator(self.head).num_levels
        self._features: Optional[tuple] = None
        self._outs: Optional[tuple] = None
        #: Further arguments of ``predict_by_feat``.
        self._options: Dict[str, Any] = {}
        #: How many numbers a box of the head has.
        self._numbers = HorizontalBoxes.box_dim

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether the detector has one stage, whose head has priors."""
        head = getattr(detector, 'bbox_head', None)
        return (not hasattr(detector, 'roi_head')
                and hasattr(head, 'predict_by_feat')
                and prior_generator(head) is not None)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one prediction: the head's inputs and outputs are kept."""
        self._features = self._outs = None
        self._options = {}
        handle = self.head.register_forward_hook(
            harmless(self._keep, self.failed))
        try:
            with observed(self.head, 'predict_by_feat', self._keep_options,
                          self.failed):
                yield
        finally:
            handle.remove()

    def _keep(self, head: nn.Module, features: tuple, outs: tuple) -> None:
        # The lists are copied: what comes after the head may change them.
        self._features = features
        self._outs = tuple(_each(out, lambda x: x) for out in outs)
        self.level_sizes = [tuple(x.shape[-2:]) for x in features[0]]

    def _keep_options(self, predict: Callable, found: Any, *outs,
                      batch_img_metas: Any = None, cfg: Any = None,
                      rescale: Any = None, with_nms: Any = None,
                      **options) -> None:
        self._options = options

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
        options = {
            key: value[picture:picture + 1] if isinstance(value, (list, tuple))
            else value for key, value in self._options.items()
        }
        near = found.to(_device(outs))
        self._numbers = get_box_tensor(found.bboxes).shape[-1]
        distance, levels = torch.stack([
            _distances(near, self._candidates(outs, level, meta, options))
            for level in range(self.num_levels)
        ]).min(dim=0)
        levels = levels.where(distance < math.inf, levels.new_tensor(-1))
        return _on(levels.to(found.labels.device))

    def _candidates(self, outs: Sequence, level: int, meta: dict,
                    options: Dict[str, Any]) -> InstanceData:
        """What one level of a picture detects, before suppression."""
        cut = [
            out if isinstance(out, Tensor) else [
                # A copy: YOLOv3 works in place.
                _each(x, torch.clone if i == level else _no_rows)
                for i, x in enumerate(out)
            ] for out in outs
        ]
        # PAA refuses ``with_nms=False``, but every head leaves out an NMS that
        # is None.
        cfg = ConfigDict(self.head.test_cfg, nms=None, max_per_img=sys.maxsize)
        # PAA averages boxes after the NMS, one by one, which takes too long for
        # all candidates.
        head = copy.copy(self.head)
        head.with_score_voting = False
        # Nor are the masks of all candidates needed (RTMDet-Ins).
        head._mask_predict_by_feat_single = _no_masks
        # Of the class: somebody may observe that of the instance.
        candidates, = type(head).predict_by_feat(
            head, *cut, batch_img_metas=[meta], cfg=cfg, rescale=True,
            **options)
        return candidates

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
            shown = _seen(one, meta, _device(maps))
            if takes_masks(self.head):
                shown.masks = _masks(one, shown.bboxes, meta)
            shown.bboxes = self._as_trained(shown.bboxes)
            levels = rule(self.head, maps, shown, meta)
            if levels is None:
                return None
            inside = _inside_picture(one, meta).to(levels.device)
            origins.append(_on(levels[:len(one)].where(
                inside, levels.new_tensor(-1)).to(one.labels.device)))
        return origins

    def _as_trained(self, boxes: BaseBoxes) -> Any:
        """Boxes as the head's training gets them: of its type, and as a
        tensor unless the detector is trained on instances of box types."""
        boxes = converted(boxes, self._numbers)
        preprocessor = getattr(self.detector, 'data_preprocessor', None)
        return boxes.tensor if getattr(
            preprocessor, 'boxtype2tensor', True) else boxes

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
    return [_each(out, lambda x: x[one]) for out in outs]


def _each(nested: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Tensors in lists of lists -> the same lists of changed tensors."""
    if isinstance(nested, Tensor):
        return change(nested)
    return [_each(x, change) for x in nested]


def _no_rows(x: Tensor) -> Tensor:
    return x[..., :0, :]


def _device(nested: Any) -> torch.device:
    return nested.device if isinstance(nested, Tensor) else _device(nested[0])


def _no_masks(mask_feat: Tensor, kernels: Tensor, priors: Tensor) -> Tensor:
    return mask_feat.new_zeros(len(priors), 1, 1)


def _distances(found: InstanceData, candidates: InstanceData) -> Tensor:
    """How far n detections are from the nearest candidate of their class.

    The distance is the product of those of box and score: small if either is
    the same, smallest if both are.

    Returns:
        (n,), infinite where there is no candidate of that class.
    """
    boxes = get_box_tensor(found.bboxes).float()
    around = enclosing(boxes)
    extent = (around[:, 2:] - around[:, :2]).sum(dim=1, keepdim=True)
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


def _seen(objects: InstanceData, meta: dict,
          device: torch.device) -> InstanceData:
    """Objects as a training shows them to the head: in the coordinates of its
    input, and no larger than the picture.

    One that is not in the picture at all is shown as large as the picture, and
    so is one in the place of none: whether a head has a rule may not depend on
    the picture.
    """
    height, width = meta['img_shape'][:2]
    boxes = HorizontalBoxes(torch.tensor([[0., 0, width, height]]))
    labels = torch.zeros(1, dtype=torch.long, device=device)
    if len(objects):
        whole, boxes = boxes, _in_picture(objects, meta)
        boxes.tensor = boxes.tensor.where(
            _inside_picture(objects, meta)[:, None],
            converted(whole, boxes.shape[-1]).tensor.to(boxes.device))
        labels = objects.labels.to(device)
    boxes = boxes.to(device)
    return InstanceData(bboxes=boxes, labels=labels)


def _masks(objects: InstanceData, boxes: BaseBoxes,
           meta: dict) -> BaseInstanceMasks:
    """The masks of objects in the coordinates of the head's input; their boxes
    where they are annotated with boxes only."""
    height, width = meta['img_shape'][:2]
    if len(objects) and 'masks' in objects:
        return objects.masks.resize((height, width))
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(
            masks, enclosing(boxes).round().int().tolist()):
        mask[y1:max(y2, y1 + 1), x1:max(x2, x1 + 1)] = 1
    return BitmapMasks(masks, height, width)


def _in_picture(objects: InstanceData, meta: dict) -> BaseBoxes:
    """Boxes in the coordinates of the head's input; those that are
    horizontal are cut off at the borders of the picture."""
    boxes = in_input(objects.bboxes, meta)
    if isinstance(boxes, HorizontalBoxes):
        boxes.clip_(meta['img_shape'][:2])
    return boxes


def _inside_picture(objects: InstanceData, meta: dict) -> Tensor:
    """(n,) bool, whether anything of an object is in the picture."""
    boxes = HorizontalBoxes(enclosing(_in_picture(objects, meta)))
    boxes.clip_(meta['img_shape'][:2])
    return (boxes.tensor[:, 2:] > boxes.tensor[:, :2]).all(dim=1)
