"""One run over the test pictures: detections, decisions, interventions."""
import json
from functools import partial
from typing import Container, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from torch import nn
from tqdm import tqdm

from mmdet_moe.evaluation.objects import (
    Boxes,
    annotated,
    detections_of,
    objects_of,
)
from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer, moe_layers, rows_at
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.sizes import SIZES, size_of

from .average_precision import AveragePrecision
from .interventions import Intervention
from .kept import outputs_kept
from .layer_record import grids_of, observe
from .parts import Nest, Parts

#: Of AP without an intervention, whose key is their number otherwise.
AS_IT_IS = 'none'


class Collector:
    """Runs a detector batch by batch and keeps what the report needs.

    What is kept of a picture are no pixels and no maps, but what its
    decisions add up to, those about its objects and detections, and for each
    intervention 21 bytes for a detection in each range of sizes. Only of the
    pictures to be shown all decisions are kept.

    Args:
        model: A detector with MoE layers, in evaluation mode.
        coco: The annotations of the test pictures.
        classes: Names of the classes, in the order of the labels.
        img_ids: All test pictures, by their ids in ``coco``.
        interventions: What to run besides the model as it is.
        shown: Pictures whose whole decisions are kept, by their index in
            ``img_ids``.
    """

    def __init__(self, model: nn.Module, *, coco: COCO,
                 classes: Sequence[str], img_ids: Sequence[int],
                 interventions: Sequence[Intervention],
                 shown: Container[int] = ()) -> None:
        self.model, self.coco = model, coco
        self.cat_ids = coco.getCatIds(catNms=list(classes))
        # pycocotools sorts by the file, MMDetection takes over its order.
        self.classes = [coco.cats[c]['name'] for c in self.cat_ids]
        self.index = {img_id: n for n, img_id in enumerate(img_ids)}
        self.layers = moe_layers(model)
        report_decisions(model)
        model.decision_reporter.features = True
        self.levels = model.decision_reporter.provenance.num_levels
        self.interventions, self.shown = list(interventions), shown
        self.average_precision = partial(AveragePrecision, coco, self.cat_ids,
                                          img_ids)
        self._ap = self.average_precision()

    @torch.no_grad()
    def process(self, batch: dict) -> List[Nest]:
        """Run the detector on a batch, once as it is and once for each
        intervention; what does not depend on it is run once.

        Returns:
            What is known about each picture.

        Raises:
            DataError: A gate gives NaN.
        """
        data = self.model.data_preprocessor(batch, False)
        for sample in data['data_samples']:
            # Whatever the pipeline loads, the objects are those of the file.
            sample.gt_instances = self._annotated(sample)
        number = self.index[data['data_samples'][0].img_id]
        with outputs_kept(self.model, self._overruled()) as kept:
            samples = self.model(**data, mode='predict')
            self._check(samples)
            parts = [self._seen(sample) for sample in samples]
            undecided = samples[0].undecided
            for sample in data['data_samples']:
                del sample.gt_instances  # need no levels once more
            for n, intervention in enumerate(self.interventions):
                if self.changes_nothing(intervention) or (
                        intervention.layer in undecided):
                    continue
                with self.model.decision_reporter.paused(), \
                        kept.overruled(intervention.layer), \
                        intervention.applied(self.model, number):
                    samples = self.model(**data, mode='predict')
                for part, sample in zip(parts, samples):
                    part['ap'][str(n)] = self.matched(sample)[1]
        return parts

    def matched(self, sample) -> Tuple[np.ndarray, Dict[str, np.ndarray]]:
        """Which detections of a picture are true, and what AP needs of it."""
        found = detections_of(sample)
        return self._ap.match(sample.img_id, dict(
            bboxes=found.boxes, scores=found.scores, labels=found.labels))

    def _annotated(self, sample) -> InstanceData:
        boxes, labels, _ = annotated(self.coco, self.cat_ids, sample.img_id)
        device = next(self.model.parameters()).device
        return InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float, device=device),
            labels=torch.tensor(labels, device=device))

    def _check(self, samples: list) -> None:
        for sample in samples:
            for name, decision in sample.decisions.items():
                if decision.weights.isnan().any():
                    raise DataError(
                        f'the gate of {name} gives NaN for a picture out of ' +
                        ', '.join(s.img_path for s in samples) +
                        '; are there NaNs in the checkpoint?')

    def _overruled(self) -> Dict[str, MoELayer]:
        return {i.layer: self.layers[i.layer] for i in self.interventions}

    def changes_nothing(self, intervention: Intervention) -> bool:
        """Whether the model is run in this way anyhow."""
        layer = self.layers[intervention.layer]
        return (intervention.kind == 'top_k' and layer.forcing is None
                and intervention.value == layer.top_k)

    def _seen(self, sample) -> Nest:
        """What is kept of a picture, as the model is."""
        index = self.index[sample.img_id]
        found = detections_of(sample)
        true, ap = self.matched(sample)
        height, width = sample.ori_shape[:2]
        objects = objects_of(sample, self.coco, self.cat_ids)
        levels_by = (
            sample.gt_origins.levels_by if 'gt_origins' in sample else '')
        layers, under, rows, shown = {}, {}, {}, {}
        for name, decision in sample.decisions.items():
            under[name] = objects.under(decision)
            layers[name], rows[name] = observe(
                decision, (under[name], found.under(decision)))
            layers[name].update(
                over=objects.over(decision),
                features=rows_at(decision.features,
                                 torch.from_numpy(under[name])).numpy())
            if index in self.shown:
                shown[name] = dict(
                    maps=grids_of(decision),
                    extent=np.array(decision.extent or (height, width)))
        things = [
            _things(boxes, right, index,
                    {name: own[which] for name, own in rows.items()})
            for which, (boxes, right) in enumerate((
                (objects, np.ones(len(objects), bool)), (found, true)))
        ]
        return dict(
            pictures=dict(
                index=np.array([index]),
                path=np.array([sample.img_path]),
                height=np.array([height]),
                width=np.array([width])),
            levels_by=np.array([levels_by]),
            undecided={
                name: np.array([why])
                for name, why in sample.undecided.items()
            },
            objects=things[0],
            detections=things[1],
            lines=np.array(self._lines(sample, objects, under), str),
            layers=layers,
            shown={str(index): shown} if shown else {},
            ap={AS_IT_IS: ap})

    def _lines(self, sample, objects: Boxes,
               under: Dict[str, np.ndarray]) -> List[str]:
        """JSON of each object."""
        weights = {
            name: rows_at(decision.weights, torch.from_numpy(under[name]))
            for name, decision in sample.decisions.items()
        }
        lines = []
        for i in range(len(objects)):
            level, item = int(objects.levels[i]), int(objects.items[i])
            lines.append(json.dumps(dict(
                img_id=sample.img_id,
                box=objects.boxes[i].tolist(),
                label=self.classes[objects.labels[i]],
                area=float(objects.areas[i]),
                size=SIZES[int(size_of(objects.areas[i]))],
                level=level if level >= 0 else None,
                item=item if item >= 0 else None,
                weights={
                    name: w[i].tolist()
                    for name, w in weights.items() if not w[i].isnan().any()
                })))
        return lines


def seen(known: Nest) -> np.ndarray:
    """(n,) the indices of the pictures that something is known about."""
    return known.get('pictures', {}).get('index', np.empty(0, int))


def collect(runner: Runner, collector: Collector, parts: Parts) -> None:
    """Run the model of a runner over its test pictures, those that this
    process has and that are not known yet.

    Args:
        runner: With its checkpoint loaded.
        collector: Of its model.
        parts: Where what is known is kept.

    Raises:
        DataError: A gate gives NaN.
    """
    collector.model.eval()
    rank, processes = get_dist_info()
    known = set(seen(parts.read()).tolist())
    mine = {
        img_id for img_id, index in collector.index.items()
        # A sampler gives some pictures twice, so that all have as many.
        if index % processes == rank and index not in known
    }
    with tqdm(total=len(mine), unit='picture', disable=rank > 0) as bar:
        for batch in runner.test_dataloader:
            some = _only(batch, mine)
            for part in [] if some is None else collector.process(some):
                parts.add(part)
                bar.update()
    parts.write()


def _only(batch: dict, img_ids: Container[int]) -> Optional[dict]:
    """A batch of only some of its pictures; None if there is none of them."""
    wanted = [
        (picture, sample)
        for picture, sample in zip(batch['inputs'], batch['data_samples'])
        if sample.img_id in img_ids
    ]
    if not wanted:
        return None
    inputs, samples = zip(*wanted)
    return dict(inputs=list(inputs), data_samples=list(samples))


def evenly_spaced(total: int, number: int) -> List[int]:
    """``number`` of the indices from 0 to ``total`` - 1, at most all."""
    return np.unique(
        np.linspace(0, total - 1, min(number, total)).round()).astype(
            int).tolist()


def _things(boxes: Boxes, true: np.ndarray, index: int,
            under: Dict[str, np.ndarray]) -> Nest:
    """The columns of things of a picture, with the rows of its decisions that
    they are under."""
    return dict(
        picture=np.full(len(boxes), index, np.int32),
        box=boxes.boxes.astype(np.float32),
        label=boxes.labels.astype(np.int32),
        area=boxes.areas.astype(np.float32),
        level=boxes.levels.astype(np.int8),
        score=boxes.scores.astype(np.float32),
        true=true,
        under=under)
