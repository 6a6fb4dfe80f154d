"""One run over the test pictures: detections, decisions, interventions."""
import json
from collections import defaultdict
from typing import Container, Dict, List, Optional, Sequence, TextIO

import numpy as np
import torch
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
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.sizes import SIZES, size_of

from .average_precision import AveragePrecision
from .interventions import Intervention
from .kept import outputs_kept
from .layer_record import LayerKeeper
from .records import Picture, Records, Things


class Collector:
    """Runs a detector batch by batch and keeps what the report needs.

    What is kept grows by some hundred numbers per picture, no maps and no
    pixels; only of the pictures to be shown all decisions are kept.

    Args:
        model: A detector with MoE layers, in evaluation mode.
        coco: The annotations of the test pictures.
        classes: Names of the classes, in the order of the labels.
        img_ids: All test pictures, by their ids in ``coco``.
        interventions: What to run besides the model as it is.
        lines: Where a line of JSON is written for each object.
        shown: Pictures whose whole decisions are kept, by their place in
            ``img_ids``.
    """

    def __init__(self, model: nn.Module, *, coco: COCO,
                 classes: Sequence[str], img_ids: Sequence[int],
                 interventions: Sequence[Intervention], lines: TextIO,
                 shown: Container[int] = ()) -> None:
        self.model, self.coco, self.lines = model, coco, lines
        self.cat_ids = coco.getCatIds(catNms=list(classes))
        # pycocotools sorts by the file, MMDetection takes over its order.
        self.classes = [coco.cats[c]['name'] for c in self.cat_ids]
        self.layers = moe_layers(model)
        report_decisions(model)
        model.decision_reporter.features = True
        self.levels = model.decision_reporter.provenance.num_levels
        self.levels_by: Optional[str] = None
        self.ap = AveragePrecision(coco, self.cat_ids, img_ids)
        self.interventions = {
            i: self.ap if _changes_nothing(i, self.layers) else
            AveragePrecision(coco, self.cat_ids, img_ids)
            for i in interventions
        }
        self.pictures: List[Picture] = []
        self.shown = shown
        self.kept = {
            name: LayerKeeper(layer.top_k, layer.chooses)
            for name, layer in self.layers.items()
        }
        #: By layer the mean weights over the box of each object.
        self.over: Dict[str, List[np.ndarray]] = defaultdict(list)
        #: By layer the features of what each object is under.
        self.features: Dict[str, List[np.ndarray]] = defaultdict(list)
        self.left_out: Dict[str, str] = {}
        self.objects: List[Things] = []
        self.detections: List[Things] = []

    @torch.no_grad()
    def process(self, batch: dict) -> None:
        """Run the detector on a batch, once as it is and once for each
        intervention; what does not depend on it is run once.

        Raises:
            DataError: A gate gives NaN.
        """
        data = self.model.data_preprocessor(batch, False)
        for sample in data['data_samples']:
            # Whatever the pipeline loads, the objects are those of the file.
            sample.gt_instances = self._annotated(sample)
        with outputs_kept(self.model, self._overruled()) as kept:
            samples = self.model(**data, mode='predict')
            self._check(samples)
            self._keep(samples)
            for sample in data['data_samples']:
                del sample.gt_instances  # need no levels once more
            for intervention, ap in self._wanted().items():
                if ap is self.ap:
                    continue
                with self.model.decision_reporter.paused(), \
                        kept.overruled(intervention.layer), \
                        intervention.applied(self.model):
                    samples = self.model(**data, mode='predict')
                ap.add([s.img_id for s in samples],
                       [_found(detections_of(s)) for s in samples])

    def _annotated(self, sample) -> InstanceData:
        boxes, labels, _ = annotated(self.coco, self.cat_ids, sample.img_id)
        device = next(self.model.parameters()).device
        return InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float, device=device),
            labels=torch.tensor(labels, device=device))

    def _check(self, samples: list) -> None:
        for sample in samples:
            self.left_out.update(sample.undecided)
            for name, decision in sample.decisions.items():
                if decision.weights.isnan().any():
                    raise DataError(
                        f'the gate of {name} gives NaN for a picture out of ' +
                        ', '.join(s.img_path for s in samples) +
                        '; are there NaNs in the checkpoint?')

    def _wanted(self) -> Dict[Intervention, AveragePrecision]:
        return {
            i: ap
            for i, ap in self.interventions.items()
            if i.layer not in self.left_out
        }

    def _overruled(self) -> Dict[str, MoELayer]:
        return {i.layer: self.layers[i.layer] for i in self.interventions}

    def _keep(self, samples: list) -> None:
        results = [detections_of(sample) for sample in samples]
        hits = self.ap.add([s.img_id for s in samples],
                           [_found(found) for found in results])
        for sample, found, true in zip(samples, results, hits):
            height, width = sample.ori_shape[:2]
            self.pictures.append(
                Picture(sample.img_id, sample.img_path, height, width,
                        self.coco.imgs[sample.img_id].get('domain')))
            objects = objects_of(sample, self.coco, self.cat_ids)
            if 'gt_origins' in sample:
                self.levels_by = sample.gt_origins.levels_by
            under, rows = _under(sample, objects), {}
            for name, decision in sample.decisions.items():
                rows[name] = self.kept[name].add(
                    decision, (under[name], found.under(decision)),
                    whole=len(self.pictures) - 1 in self.shown)
                self.over[name].append(objects.over(decision))
                self.features[name].append(
                    rows_at(decision.features,
                            torch.from_numpy(under[name])).numpy())
            for kept, boxes, right, which in (
                    (self.objects, objects, np.ones(len(objects), bool), 0),
                    (self.detections, found, true, 1)):
                kept.append(self._things(boxes, right, {
                    name: own[which] for name, own in rows.items()
                }))
            self._write(sample, objects, under)

    def _things(self, boxes: Boxes, true: np.ndarray,
                under: Dict[str, np.ndarray]) -> Things:
        """With the rows of the layers' records that they are under."""
        return Things(
            np.full(len(boxes), len(self.pictures) - 1, np.int32),
            boxes.boxes.astype(np.float32), boxes.labels.astype(np.int32),
            boxes.areas.astype(np.float32), boxes.levels.astype(np.int8),
            boxes.scores.astype(np.float32), true, under)

    def _write(self, sample, objects: Boxes,
               under: Dict[str, np.ndarray]) -> None:
        """A line for each object, so that all of them are in no one's way."""
        weights = {
            name: rows_at(decision.weights, torch.from_numpy(under[name]))
            for name, decision in sample.decisions.items()
        }
        for i in range(len(objects)):
            level, item = int(objects.levels[i]), int(objects.items[i])
            row = dict(
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
                })
            self.lines.write(json.dumps(row) + '\n')

    def records(self) -> Records:
        """What was kept, joined.

        Raises:
            ValueError: Nothing is known about any MoE layer.
        """
        layers = {
            name: keeper.record()
            for name, keeper in self.kept.items()
            if name in self.over and name not in self.left_out
        }
        if not layers:
            raise ConfigError(
                'there is nothing to report about any MoE layer of the model; '
                + '; '.join(f'{name}: {why}'
                            for name, why in self.left_out.items()))
        above = [
            self.coco.cats[c].get('supercategory') for c in self.cat_ids
        ]
        return Records(
            pictures=self.pictures,
            shown=[i for i in range(len(self.pictures)) if i in self.shown],
            classes=self.classes,
            supercategories=above if all(above) else None,
            levels=self.levels,
            layers=layers,
            objects=Things.cat(self.objects, list(layers)),
            over={name: np.concatenate(self.over[name]) for name in layers},
            features={
                name: np.concatenate(self.features[name]) for name in layers
            },
            detections=Things.cat(self.detections, list(layers)),
            ap=self.ap,
            interventions=self._wanted(),
            levels_by=self.levels_by,
            left_out=self.left_out)


def collect(runner: Runner,
            coco: COCO,
            *,
            interventions: Sequence[Intervention] = (),
            lines: TextIO,
            show: int = 0) -> Records:
    """Run the model of a runner over its test pictures.

    Args:
        runner: With its checkpoint loaded.
        coco: The annotations.
        interventions: What to run besides the model as it is.
        lines: Where a line of JSON is written for each object.
        show: Of how many pictures to keep all that was decided.

    Raises:
        ValueError: Nothing is known about any MoE layer.
        DataError: A gate gives NaN.
    """
    loader = runner.test_dataloader
    dataset = loader.dataset
    runner.model.eval()
    collector = Collector(
        runner.model,
        coco=coco,
        classes=dataset.metainfo['classes'],
        img_ids=[
            dataset.get_data_info(i)['img_id'] for i in range(len(dataset))
        ],
        interventions=interventions,
        lines=lines,
        shown=evenly_spaced(len(dataset), show))
    with tqdm(total=len(dataset), unit='picture') as bar:
        for batch in loader:
            collector.process(batch)
            bar.update(len(batch['inputs']))
    return collector.records()


def evenly_spaced(total: int, number: int) -> List[int]:
    """``number`` of the indices from 0 to ``total`` - 1, at most all."""
    return np.unique(
        np.linspace(0, total - 1, min(number, total)).round()).astype(
            int).tolist()


def _changes_nothing(intervention: Intervention, layers) -> bool:
    layer = layers[intervention.layer]
    return (intervention.kind == 'top_k' and layer.forcing is None
            and intervention.value == layer.top_k)


def _under(sample, boxes: Boxes) -> Dict[str, np.ndarray]:
    """By layer the decision about this picture that each box is under."""
    return {
        name: boxes.under(decision)
        for name, decision in sample.decisions.items()
    }


def _found(boxes: Boxes) -> dict:
    """Detections as AveragePrecision takes them."""
    return dict(bboxes=boxes.boxes, scores=boxes.scores, labels=boxes.labels)
