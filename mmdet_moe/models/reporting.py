"""Who decided about which detection: attached to what a detector returns."""
from contextlib import ExitStack, contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.structures import InstanceData
from torch import nn

from mmdet_moe.layers import Decision, traced
from mmdet_moe.names import weights_field

from .provenance import (
    Origin,
    Undecided,
    matching_detections,
    predicting_part,
    provenance_of,
    take,
)


def report_decisions(detector: nn.Module) -> None:
    """Have a detector report who decided, from now on; once is enough."""
    if not hasattr(detector, 'decision_reporter'):
        detector.decision_reporter = DecisionReporter(detector)


class DecisionReporter:
    """Watches the predictions of a detector, and says who decided.

    It acts in ``forward(mode='predict')``, so in MMDetection's tools,
    ``inference_detector`` and ``DetInferencer`` alike. The detections stay
    what they are. Each data sample gets

    - ``decisions``: by the name of a MoE layer its :class:`.Decision` about
      this picture, on the CPU;
    - ``undecided``: by the name of a layer that has none, why;
    - in ``pred_instances`` ``level_ids`` and ``item_ids`` (n,), where the
      detector has levels, or regions or queries, and for each layer
      ``{layer}.expert_weights`` (n, E), NaN for a detection that the layer
      did not take part in;
    - where objects are annotated, and the detector has levels, regions or
      queries, ``gt_origins`` with the objects' ``level_ids`` and
      ``item_ids``, and as metainfo ``levels_by`` and ``items_by``:
      ``'assigner'`` for the rule of the training, ``'detection'`` for what
      the detection has that matches the object.

    Args:
        detector: A detector of MMDetection.
    """

    def __init__(self, detector: nn.Module) -> None:
        self._within, part = predicting_part(detector)
        self.provenance = provenance_of(part)
        self._stack = ExitStack()
        self._paused = False
        #: Whether the decisions have the features that they were made of.
        self.features = False
        self._decisions: Dict[str, List[Decision]] = {}
        detector.register_forward_pre_hook(self._before, with_kwargs=True)
        detector.register_forward_hook(
            self._after, with_kwargs=True, always_call=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Report nothing inside of the block: predictions are faster."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _before(self, detector: nn.Module, args: tuple, kwargs: dict) -> None:
        self._stack.close()
        if _mode(args, kwargs) != 'predict':
            return
        # Of a teacher or student that predicts as a part of this detector.
        for module in detector.modules():
            inner = getattr(module, 'decision_reporter', self)
            if inner is not self:
                self._stack.enter_context(inner.paused())
        if not self._paused:
            self._decisions = self._stack.enter_context(
                traced(detector, self.features))
            self._stack.enter_context(self.provenance.watch())

    def _after(self, detector: nn.Module, args: tuple, kwargs: dict,
               output) -> None:
        self._stack.close()
        decisions, self._decisions = self._decisions, {}
        if decisions and output is not None:
            with torch.no_grad():
                self._report(output, decisions)

    def _report(self, samples: Sequence,
                calls: Dict[str, List[Decision]]) -> None:
        source = self.provenance
        whole, undecided = {}, {}
        for name, decisions in calls.items():
            try:
                decision, counts = source.about(
                    name.removeprefix(self._within), decisions, len(samples))
                whole[name] = decision.cpu(), _parts(counts)
            except Undecided as reason:
                undecided[name] = str(reason)
        for b, sample in enumerate(samples):
            extent = _extent(sample.metainfo)
            sample.decisions = {
                name: decision.part(*parts[b], extent=extent)
                for name, (decision, parts) in whole.items()
            }
            sample.undecided = undecided
        if not all('pred_instances' in sample for sample in samples):
            return  # a detector of stuff, or of none but panoptic segments
        origins = [
            source.detections(b, s.pred_instances, s.metainfo)
            for b, s in enumerate(samples)
        ]
        objects = self._objects(samples, origins)
        for b, (sample, origin) in enumerate(zip(samples, origins)):
            found = sample.pred_instances
            if source.num_levels:
                found.level_ids = origin.levels
            if source.num_items:
                found.item_ids = origin.items
            for name, decision in sample.decisions.items():
                weights = decision.at(found.bboxes, origin.levels,
                                      origin.items)
                found.set_field(
                    weights.to(found.bboxes.device), weights_field(name))
            if objects[b] is not None:
                sample.gt_origins = objects[b]

    def _objects(self, samples: Sequence, origins: Sequence[Origin]
                 ) -> List[Optional[InstanceData]]:
        """Where the annotated objects of pictures belong; None for a picture
        that has no annotation."""
        # A pipeline that loads no annotations gives instances without any.
        annotated = ['labels' in s.get('gt_instances', ()) for s in samples]
        source = self.provenance
        if not any(annotated) or not (source.num_levels or source.num_items):
            return [None] * len(samples)
        objects = [
            s.gt_instances if there else _no_objects(s)
            for s, there in zip(samples, annotated)
        ]
        assigned = source.objects(objects, [s.metainfo for s in samples])
        result = []
        for b, (sample, one) in enumerate(zip(samples, objects)):
            if not annotated[b]:
                result.append(None)
                continue
            match = matching_detections(one, sample.pred_instances)
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


def _mode(args: tuple, kwargs: dict) -> str:
    """The mode in which ``forward(inputs, data_samples=None, mode='tensor')``
    is called."""
    return kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')


def _parts(counts: Sequence[int]) -> List[Tuple[int, int]]:
    """First entry of each picture, and the one after its last."""
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    return list(zip(ends, ends[1:]))


def _extent(meta: dict) -> Tuple[float, float]:
    """Height and width of what the maps cover, in the original picture's
    pixels."""
    height, width = meta.get('batch_input_shape', meta['img_shape'][:2])
    x, y = meta.get('scale_factor', (1.0, 1.0))[:2]
    return height / y, width / x


def _no_objects(sample) -> InstanceData:
    labels = sample.pred_instances.labels
    return InstanceData(
        bboxes=labels.new_zeros((0, 4), dtype=torch.float),
        labels=labels.new_zeros(0))
