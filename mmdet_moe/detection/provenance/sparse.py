"""Where the detections of Sparse R-CNN come from: its queries."""
from contextlib import contextmanager
from typing import Callable, Dict, Iterator, Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.models.provenance import Origin

from .regions import RegionProvenance, match_regions
from .wrapping import observed


class SparseProvenance(RegionProvenance):
    """Cascades whose regions are learned queries (Sparse R-CNN, QueryInst).

    The items are the numbers of the queries in their image. The levels are
    those that the extractor of the last stage cuts the queries' boxes out of.
    Each query has one box, and each of its class scores can become a
    detection.
    """
    heads = ()
    item_modules = ('roi_head.bbox_head.', )

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether the regions of a cascade have features of their own."""
        roi_head = getattr(detector, 'roi_head', None)
        return (hasattr(roi_head, 'proposal_feature_channel')
                and hasattr(roi_head, '_bbox_forward'))

    @contextmanager
    def watch(self) -> Iterator[None]:
        self._regions = []
        with observed(self.detector, 'extract_feat', self._see_maps,
                      self.failed), \
                observed(self.detector.roi_head, '_bbox_forward',
                         self._see_stage, self.failed):
            yield

    def _see_stage(self, forward: Callable, results: Dict, stage: int,
                   x: Sequence[Tensor], rois: Tensor, *args,
                   **kwargs) -> None:
        """Keep what a stage was called with, and what it returned.

        Args:
            forward: The method of the head.
            results: ``cls_score`` (B, Q, C), and for each image the boxes
                (Q, 4) that the stage has refined.
            stage: Its number; the last one's results stay.
            x: Feature maps of the levels.
            rois: (B * Q, 5) number of the image, and box.
        """
        scores = results['cls_score']
        if self._head.loss_cls.use_sigmoid:
            scores = scores.sigmoid()
        else:
            scores = scores.softmax(-1)[..., :-1]
        self._regions = [
            (rois[rois[:, 0] == b], *own)
            for b, own in enumerate(zip(scores, results['detached_proposals']))
        ]

    @torch.no_grad()
    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        if self._regions[picture] is None or not len(found.labels):
            return Origin.unknown(len(found.labels), found.labels.device)
        rois, scores, boxes = (
            x.to(found.labels.device) for x in self._regions[picture])
        boxes = boxes / boxes.new_tensor(
            meta.get('scale_factor', (1, 1))).repeat(2)
        order = found.scores.argsort(descending=True, stable=True)
        items = torch.empty_like(order)
        items[order] = match_regions(
            found.bboxes[order], found.labels[order].long(), boxes, scores)
        levels = self._levels(rois)[items]
        return Origin(levels.where(items >= 0, items), items)
