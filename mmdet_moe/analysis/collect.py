"""One run over the test pictures: detections, decisions, interventions."""
import json
from collections import defaultdict
from typing import Dict, List, Sequence, TextIO

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from torch import nn
from tqdm import tqdm

from mmdet_moe.evaluation.assignment_table import SIZES, size_of
from mmdet_moe.files import DataError
from mmdet_moe.layers import MapDecision, moe_layers, traced
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.models.dense_heads.levels import (
    assigned_levels,
    assigns_levels,
)

from .average_precision import AveragePrecision
from .interventions import (
    Intervention,
    KeptFeatures,
    before_the_head,
    features_kept,
    outputs_kept,
)
from .objects import annotated, detected, patches
from .records import LayerRecord, Picture, Records, Things


class Collector:
    """Runs a detector batch by batch and keeps what the report needs.

    What is kept grows by some hundred numbers per picture, no maps and no
    pixels.

    Args:
        model: A detector with MoE layers, in evaluation mode.
        coco: The annotations of the test pictures.
        classes: Names of the classes, in the order of the labels.
        img_ids: All test pictures, by their ids in ``coco``.
        interventions: What to run besides the model as it is.
        lines: Where a line of JSON is written for each object.
    """

    def __init__(self, model: nn.Module, *, coco: COCO,
                 classes: Sequence[str], img_ids: Sequence[int],
                 interventions: Sequence[Intervention],
                 lines: TextIO) -> None:
        self.model, self.coco, self.lines = model, coco, lines
        self.cat_ids = coco.getCatIds(catNms=list(classes))
        # pycocotools sorts by the file, MMDetection takes over its order.
        self.classes = [coco.cats[c]['name'] for c in self.cat_ids]
        self.layers = moe_layers(model)
        self.head = _anchor_head(model)
        self.levels = 0 if self.head is None else len(
            self.head.prior_generator.strides)
        self.ap = AveragePrecision(coco, self.cat_ids, img_ids)
        self.interventions = {
            i: self.ap if _changes_nothing(i, self.layers) else
            AveragePrecision(coco, self.cat_ids, img_ids)
            for i in interventions
        }
        self.pictures: List[Picture] = []
        self.decisions = defaultdict(list)
        self.left_out: Dict[str, str] = {}
        self.objects: List[Things] = []
        self.detections: List[Things] = []

    @torch.no_grad()
    def process(self, batch: dict) -> None:
        """Run the detector on a batch, once as it is and once for each
        intervention; backbone and neck are run once where they can be.

        Raises:
            DataError: A gate gives NaN.
        """
        data = self.model.data_preprocessor(batch, False)
        # The objects come from the file. Without this every run would give
        # them their levels anew.
        for sample in data['data_samples']:
            sample.pop('gt_instances', None)
        with features_kept(self.model) as features:
            with traced(self.model) as decisions:
                samples = self.model(**data, mode='predict')
            self._keep(samples, self._usable(decisions, samples), features)
            with outputs_kept(self.layers):
                for intervention, ap in self._wanted().items():
                    if ap is not self.ap:
                        samples = self._run(data, intervention, features)
                        ap.add([s.img_id for s in samples],
                               [detected(s) for s in samples])

    def _usable(self, decisions: Dict[str, List[MapDecision]],
                samples: list) -> Dict[str, List[MapDecision]]:
        """Those that are about pictures; the other layers are left out."""
        for name, maps in decisions.items():
            numbers = {len(m.weights) for m in maps}
            if not maps:
                # such as those of an auxiliary head
                self.left_out[name] = 'it is not used in prediction'
            elif numbers != {len(samples)}:
                self.left_out[name] = (
                    f'it decides about {max(numbers)} things where there are '
                    f'{len(samples)} pictures, such as regions of them')
            elif self.levels and len(maps) not in (1, self.levels):
                self.left_out[name] = (
                    f'it sees {len(maps)} maps, and the head has '
                    f'{self.levels} levels')
        usable = {
            name: maps
            for name, maps in decisions.items() if name not in self.left_out
        }
        for name, maps in usable.items():
            if any(m.weights.isnan().any() for m in maps):
                raise DataError(
                    f'the gate of {name} gives NaN for a picture out of ' +
                    ', '.join(sample.img_path for sample in samples) +
                    '; are there NaNs in the checkpoint?')
        return usable

    def _wanted(self) -> Dict[Intervention, AveragePrecision]:
        return {
            i: ap
            for i, ap in self.interventions.items()
            if i.layer not in self.left_out
        }

    def _run(self, data: dict, intervention: Intervention,
             features: KeptFeatures) -> list:
        with intervention.applied(self.model):
            if not before_the_head(intervention.layer):
                return self.model(**data, mode='predict')
            with features.aside():
                return self.model(**data, mode='predict')

    def _keep(self, samples: list, decisions: Dict[str, List[MapDecision]],
              features: KeptFeatures) -> None:
        results = [detected(sample) for sample in samples]
        hits = self.ap.add([s.img_id for s in samples], results)
        for b, sample in enumerate(samples):
            height, width = sample.ori_shape[:2]
            number = len(self.pictures)
            self.pictures.append(
                Picture(sample.img_id, sample.img_path, height, width))
            for name, maps in decisions.items():
                self.decisions[name].append([
                    np.stack([_flat(x) for x in values])
                    for values in zip(*((m.weights[b], m.logits[b],
                                         m.distinct) for m in maps))
                ])
            boxes, labels, areas = annotated(self.coco, self.cat_ids,
                                             sample.img_id)
            objects = self._things(
                sample,
                decisions,
                number,
                bboxes=boxes,
                labels=labels,
                areas=areas,
                levels=self._assigned(boxes, labels, sample, features),
                scores=np.ones(len(boxes)),
                true=np.ones(len(boxes), bool))
            self._write(sample, objects)
            self.objects.append(objects)
            found = results[b]
            self.detections.append(
                self._things(
                    sample,
                    decisions,
                    number,
                    **found,
                    areas=np.prod(
                        found['bboxes'][:, 2:] - found['bboxes'][:, :2],
                        axis=1),
                    true=hits[b]))

    def _assigned(self, boxes: np.ndarray, labels: np.ndarray, sample,
                  features: KeptFeatures) -> np.ndarray:
        if self.head is None:
            return np.full(len(boxes), -1)
        first = features.value[0]
        objects = InstanceData(
            bboxes=first.new_tensor(boxes.tolist()).reshape(-1, 4),
            labels=torch.tensor(labels, device=first.device))
        levels, = assigned_levels(
            self.head, [x.shape[-2:] for x in features.value], [objects],
            [sample.metainfo])
        return levels.cpu().numpy()

    def _things(self, sample, decisions, number: int, *, bboxes, labels,
                areas, levels, scores, true) -> Things:
        """With the patch of each map that the centres of the boxes lie in."""
        patch = {
            name: patches(bboxes, sample.metainfo, maps,
                          self.layers[name].scope.grid)
            for name, maps in decisions.items()
        }
        return Things(
            np.full(len(bboxes), number, np.int32),
            bboxes.astype(np.float32), labels.astype(np.int32),
            areas.astype(np.float32), levels.astype(np.int8),
            scores.astype(np.float32), true, patch)

    def _write(self, sample, objects: Things) -> None:
        """A line for each object, so that all of them are in no one's way."""
        weights = {name: kept[-1][0] for name, kept in self.decisions.items()}
        for i in range(len(objects)):
            level = int(objects.level[i])
            row = dict(
                img_id=sample.img_id,
                box=objects.box[i].tolist(),
                label=self.classes[objects.label[i]],
                area=float(objects.area[i]),
                size=SIZES[int(size_of(objects.area[i]))],
                level=level if level >= 0 else None,
                weights={})
            for name, maps in weights.items():
                place = 0 if len(maps) == 1 else level
                if place >= 0:
                    patch = objects.patch[name][i, place]
                    row['weights'][name] = maps[place, patch].tolist()
            self.lines.write(json.dumps(row) + '\n')

    def records(self) -> Records:
        """What was kept, joined.

        Raises:
            ValueError: No MoE layer decides about pictures.
        """
        layers = {}
        for name, layer in self.layers.items():
            if name in self.left_out:
                continue
            parts = self.decisions[name]
            weights, logits, distinct = (np.stack(x) for x in zip(*parts))
            layers[name] = LayerRecord(
                weights.astype(float), logits, distinct, layer.scope.grid,
                layer.top_k)
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
            classes=self.classes,
            supercategories=above if all(above) else None,
            levels=self.levels,
            layers=layers,
            objects=Things.cat(self.objects),
            detections=Things.cat(self.detections),
            ap=self.ap,
            interventions=self._wanted(),
            left_out=self.left_out)


def collect(runner: Runner,
            coco: COCO,
            *,
            interventions: Sequence[Intervention] = (),
            lines: TextIO) -> Records:
    """Run the model of a runner over its test pictures.

    Args:
        runner: With its checkpoint loaded.
        coco: The annotations.
        interventions: What to run besides the model as it is.
        lines: Where a line of JSON is written for each object.

    Raises:
        ValueError: No MoE layer decides about pictures.
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
        lines=lines)
    with tqdm(total=len(dataset), unit='picture') as bar:
        for batch in loader:
            collector.process(batch)
            bar.update(len(batch['inputs']))
    return collector.records()


def _anchor_head(model: nn.Module):
    """The part of a detector that gives objects to levels; None if none."""
    for name in ('bbox_head', 'rpn_head'):
        head = getattr(model, name, None)
        if assigns_levels(head):
            return head
    return None


def _changes_nothing(intervention: Intervention, layers) -> bool:
    layer = layers[intervention.layer]
    return (intervention.kind == 'top_k' and layer.forcing is None
            and intervention.value == layer.top_k)


def _flat(grid: torch.Tensor) -> np.ndarray:
    """(G, G, ...) -> (P, ...)"""
    return grid.flatten(0, 1).cpu().numpy()
