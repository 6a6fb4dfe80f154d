"""Where the detections of a second stage come from: its regions."""
import inspect
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import torch
from mmdet.structures.bbox import BaseBoxes, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.detection.boxes import converted, in_input
from mmdet_moe.models.provenance import Origin, Provenance

from .wrapping import observed

# Boxes are equal if no coordinate differs by more than this part of the
# largest one: a few rounding errors of float32, a hundredth of a pixel.
TOLERANCE = 1e-5


class RegionProvenance(Provenance):
    """Detectors whose second stage turns each region into boxes.

    The items are the numbers of the regions in their picture. The levels are
    those that the extractor of the last stage cuts the regions out of; an
    extractor that sums over all levels has none. In a cascade the regions
    keep their numbers from stage to stage, and levels are those of the
    regions as the last stage gets them.

    Boxes may be changed after the last box head has selected detections, as
    Grid R-CNN does. If other detections are selected after it, those whose box
    the head has not predicted have no known region (-1).
    """
    heads = ('rpn_head.', )
    item_modules = ('roi_head.bbox_head.', 'roi_head.shared_head.')
    query_modules = ()
    later = ('roi_head.mask', 'roi_head.grid', 'roi_head.point')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self._head = _last(detector.roi_head.bbox_head)
        self._extractor = _last(detector.roi_head.bbox_roi_extractor)
        inputs = self._extractor.num_inputs
        has_rule = hasattr(self._extractor, 'map_roi_levels')
        self.num_levels = inputs if has_rule or inputs == 1 else 0
        # What the head was called with, for each picture.
        self._regions: List[Optional[Tuple[Tensor, Any, Any]]] = []
        self._dtype = torch.float32  # of the feature maps
        self._numbers = 4  # of the box of a region
        self._selected: List[InstanceData] = []
        self._rescaled = False

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether a box head turns proposed regions into detections.

        Sparse R-CNN is not meant: its regions are learned queries, and its
        detections are not made by the box head.
        """
        roi_head = getattr(detector, 'roi_head', None)
        rpn_head = getattr(detector, 'rpn_head', None)
        head = _last(getattr(roi_head, 'bbox_head', None))
        return (hasattr(head, 'predict_by_feat')
                and hasattr(roi_head, 'bbox_roi_extractor')
                and (rpn_head is None or hasattr(rpn_head, 'predict_by_feat')))

    @contextmanager
    def watch(self) -> Iterator[None]:
        self._regions, self._selected = [], []
        with observed(self.detector, 'extract_feat', self._see_maps,
                      self.failed), \
                observed(self._head, 'predict_by_feat', self._see_regions,
                         self.failed):
            yield

    def _see_maps(self, extract: Callable, maps: Sequence[Tensor], *args,
                  **kwargs) -> None:
        # With those that regions are proposed on, but not cut out of.
        self.level_sizes = tuple(tuple(m.shape[-2:]) for m in maps)
        self._dtype = maps[0].dtype
        # The head is not called if no picture has regions.
        self._regions = [None] * len(maps[0])

    def _see_regions(self, predict: Callable, found: List[InstanceData],
                     rois: Sequence[Tensor], cls_scores: Sequence,
                     bbox_preds: Sequence, *args, **kwargs) -> None:
        call = inspect.signature(predict).bind(
            rois, cls_scores, bbox_preds, *args, **kwargs)
        self._regions = list(zip(rois, cls_scores, bbox_preds))
        self._numbers = rois[0].shape[-1] - 1
        # Gliding vertices have further outputs of the head.
        self._more = {
            key: value for key, value in call.arguments.items()
            if key.endswith('_preds') and key != 'bbox_preds'
        }
        self._rescaled = call.arguments.get('rescale', False)
        # What comes after the head may change its boxes in place.
        self._selected = [
            InstanceData(bboxes=get_box_tensor(x.bboxes).clone(),
                         labels=x.labels, scores=x.scores.clone())
            for x in found if 'labels' in x
        ]

    @torch.no_grad()
    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        unknown = Origin.unknown(len(found.labels), found.labels.device)
        if self._regions[picture] is None or not len(found.labels):
            return unknown
        rois, cls_score, bbox_pred = self._regions[picture]
        selected = self._as_selected(picture, found)
        # Without a test_cfg the head returns everything, before its NMS.
        every = self._head.predict_by_feat(
            (rois, ), (cls_score, ), (bbox_pred, ),
            **{k: x[picture:picture + 1] for k, x in self._more.items()},
            batch_img_metas=[meta],
            rcnn_test_cfg=None,
            rescale=selected is None or self._rescaled)[0].to(
                found.labels.device)
        selected = found if selected is None else selected
        order = selected.scores.argsort(descending=True, stable=True)
        items = torch.empty_like(order)
        items[order] = self._regions_of(selected[order], every, len(rois))
        levels = self._levels(rois).to(items.device)[items]
        return Origin(levels.where(items >= 0, unknown.levels), items)

    def _as_selected(self, picture: int,
                     found: InstanceData) -> Optional[InstanceData]:
        """The detections as the box head has selected them, with its boxes;
        None if others have been selected since."""
        if picture >= len(self._selected):
            return None
        selected = self._selected[picture].to(found.labels.device)
        same = (torch.equal(selected.labels, found.labels)
                and torch.equal(selected.scores, found.scores))
        return selected if same else None

    def _regions_of(self, found: InstanceData, every: InstanceData,
                    regions: int) -> Tensor:
        """Which regions became detections.

        Args:
            found: n detections, best first.
            every: Boxes and scores of all regions, for all classes.
            regions: How many there are.

        Returns:
            (n,) int64 number of the region, -1 if it is unknown.
        """
        if len(every.bboxes) != regions:  # not a box per class and region
            return torch.full_like(found.labels.long(), -1)
        return match_regions(found.bboxes, found.labels.long(), every.bboxes,
                             every.scores)

    def _levels(self, rois: Tensor) -> Tensor:
        """The pyramid levels of regions (n, 5), as the extractor has it."""
        if hasattr(self._extractor, 'map_roi_levels'):
            # It computes in the precision of the maps: in float16 the area
            # of a region of 256 x 256 is infinite.
            return self._extractor.map_roi_levels(
                rois.to(self._dtype), self.num_levels)
        return rois.new_full((len(rois), ), self.num_levels - 1).long()

    def objects(self, objects: Sequence[InstanceData],
                metas: Sequence[dict]) -> List[Origin]:
        """Objects on the levels of their boxes: training adds these boxes to
        the regions. They have no item."""
        return [
            self._object(in_input(o.bboxes, m))
            for o, m in zip(objects, metas)
        ]

    def _object(self, objects: BaseBoxes) -> Origin:
        boxes = converted(objects, self._numbers).tensor
        unknown = Origin.unknown(len(boxes), boxes.device)
        rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
        return Origin(self._levels(rois), unknown.items)

    @property
    def num_items(self) -> List[int]:
        return [0 if r is None else len(r[0]) for r in self._regions]


def match_regions(bboxes: Tensor, labels: Tensor, all_bboxes: Tensor,
                  all_scores: Tensor) -> Tensor:
    """Which regions NMS and top-k made into detections.

    A detection has the box that its region has for the detection's class.
    Regions can share a box, for example the whole picture: the k-th detection
    with a box and a class is the region with the k-th highest score among
    those that have it. Scores themselves are not compared: soft-NMS changes
    them, but not their order among equal boxes.

    Args:
        bboxes: Boxes (n, 4) of the detections, best first; or of another
            type, with D numbers in the place of 4, as all others.
        labels: Their classes (n,).
        all_bboxes: Boxes of the R regions, (R, 4) for all classes together or
            (R, C * 4).
        all_scores: Their scores (R, C) or, with the background, (R, C + 1).

    Returns:
        (n,) int64 number of the region, -1 if none has the box.
    """
    bboxes = get_box_tensor(bboxes)
    per_class = get_box_tensor(all_bboxes).view(
        len(all_bboxes), -1, bboxes.shape[-1])
    if per_class.shape[1] > 1:
        per_class = per_class[:, labels]
    reach = TOLERANCE * (1 + bboxes.abs().amax(-1))  # (n,)
    near = (per_class - bboxes).abs().amax(-1) <= reach  # (R, n)
    order = all_scores[:, labels].masked_fill(~near, -1).argsort(
        dim=0, descending=True, stable=True)

    alike = (bboxes[:, None] - bboxes).abs().amax(-1) <= reach
    alike &= labels[:, None] == labels
    rank = alike.triu(1).sum(dim=0)  # (n,) how many of them are before
    known = rank < near.sum(dim=0)
    rank = rank.clamp(max=len(order) - 1)
    return order.gather(0, rank[None])[0].masked_fill(~known, -1)


def _last(stages: Any) -> Any:
    """The last stage of a cascade, or the only one."""
    return stages[-1] if isinstance(stages, nn.ModuleList) else stages
