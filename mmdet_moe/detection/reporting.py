"""Who decided about which detection."""
from typing import Dict, List, Optional, Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmengine.structures import InstanceData
from torch import nn

from mmdet_moe.layers import Decision
from mmdet_moe.models.frames import frame_of
from mmdet_moe.models.provenance import Origin, Undecided
from mmdet_moe.models.reporting import DecisionReporter, reporter_of
from mmdet_moe.names import GT_ORIGINS, weights_field

from .boxes import enclosing, flipped
from .mask_boxes import boxes_of
from .provenance import (
    matching_detections,
    predicting_part,
    provenance_of,
    take,
)


class DetectionReporter(DecisionReporter):
    """Says who decided about each detection, too.

    Beside what :class:`.DecisionReporter` gives, each data sample gets

    - in ``pred_instances`` ``level_ids`` and ``item_ids`` (n,), where the
      detector has levels, or regions or queries, and for each layer
      ``{layer}.expert_weights`` (n, E), NaN for a detection that the layer
      did not take part in;
    - where objects are annotated, and the detector has levels, regions or
      queries, ``gt_origins`` with the objects' ``level_ids`` and
      ``item_ids``, and as metainfo ``levels_by`` and ``items_by``:
      ``'assigner'`` for the rule of the training, ``'detection'`` for what
      the detection has that matches the object. Where the rule fails, the
      detection counts, and ``undecided['gt_origins']`` is the reason.

    Args:
        detector: A detector of MMDetection.
    """

    def __init__(self, detector: nn.Module) -> None:
        within, part = predicting_part(detector)
        super().__init__(detector, provenance_of(part), within)

    def report(self, samples: Sequence,
               calls: Dict[str, List[Decision]]) -> None:
        super().report(samples, calls)
        source = self.provenance
        if not all('pred_instances' in sample for sample in samples):
            return  # a detector of stuff, or of none but panoptic segments
        try:
            origins = [
                source.detections(b, s.pred_instances, s.metainfo)
                for b, s in enumerate(samples)
            ]
        except Exception as error:
            reason = str(error) if isinstance(
                error, Undecided) else self.error_text(error)
            for sample in samples:
                sample.undecided.update(
                    dict.fromkeys(sample.decisions, reason))
                sample.decisions = {}
            return
        objects = [None] * len(samples)
        reasons: Dict[str, str] = {}
        with self.reasons(reasons, GT_ORIGINS):
            objects = self._objects(samples, origins, reasons)
        for sample in samples:
            sample.undecided.update(reasons)
        for b, (sample, origin) in enumerate(zip(samples, origins)):
            found = sample.pred_instances
            if source.num_levels:
                found.level_ids = origin.levels
            if source.num_items:
                found.item_ids = origin.items
            undecided: Dict[str, str] = {}
            for name, decision in sample.decisions.items():
                with self.reasons(undecided, name):
                    boxes = flipped(boxes_of(found), frame_of(sample.metainfo))
                    weights = decision.at(
                        enclosing(boxes), origin.levels, origin.items)
                    found.set_field(
                        weights.to(found.labels.device), weights_field(name))
            for name in undecided:
                del sample.decisions[name]
            sample.undecided.update(undecided)
            if objects[b] is not None:
                sample.gt_origins = objects[b]

    def _objects(self, samples: Sequence, origins: Sequence[Origin],
                 reasons: Dict[str, str]) -> List[Optional[InstanceData]]:
        """Where the annotated objects of pictures belong; None for a picture
        that has no annotation.

        Args:
            samples: With detections.
            origins: Of the detections.
            reasons: Gets the reason if the rule of the training fails.
        """
        # A pipeline that loads no annotations gives instances without any.
        annotated = ['labels' in s.get('gt_instances', ()) for s in samples]
        source = self.provenance
        if not any(annotated) or not (source.num_levels or source.num_items):
            return [None] * len(samples)
        objects = [
            _as_predicted(s) if there else _no_objects(s)
            for s, there in zip(samples, annotated)
        ]
        assigned = None  # as without a rule, also where it fails
        with self.reasons(reasons, GT_ORIGINS):
            assigned = source.objects(objects, [s.metainfo for s in samples])
        result = []
        for b, (sample, one) in enumerate(zip(samples, objects)):
            if not annotated[b]:
                result.append(None)
                continue
            found = sample.pred_instances
            match = matching_detections(
                one,
                InstanceData(bboxes=boxes_of(found), labels=found.labels,
                             scores=found.scores))
            result.append(
                InstanceData(
                    level_ids=take(origins[b].levels, match)
                    if assigned is None else assigned[b].levels,
                    item_ids=take(origins[b].items, match),
                    metainfo=dict(
                        levels_by='detection'
                        if assigned is None else 'assigner',
                        items_by='detection')))
        return result


reporter_of.register(BaseDetector, DetectionReporter)


def _as_predicted(sample) -> InstanceData:
    """The annotated objects as they are in a flipped image, as its detections
    are. They are loaded as they are in the original one."""
    frame = frame_of(sample.metainfo)
    objects = sample.gt_instances
    if frame is None or frame.direction is None:
        return objects
    objects = objects.clone()
    objects.bboxes = flipped(objects.bboxes, frame)
    if 'masks' in objects:
        objects.masks = objects.masks.flip(frame.direction)
    return objects


def _no_objects(sample) -> InstanceData:
    labels = sample.pred_instances.labels
    return InstanceData(
        bboxes=labels.new_zeros((0, 4), dtype=torch.float),
        labels=labels.new_zeros(0))
