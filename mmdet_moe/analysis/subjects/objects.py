"""Annotated objects and detections, with COCO's average precision."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures.bbox import HorizontalBoxes, get_box_type
from mmengine.fileio import get_local_path
from mmengine.structures import InstanceData
from pycocotools.coco import COCO

from mmdet_moe.datasets.images import outside
from mmdet_moe.datasets.objects import count_objects
from mmdet_moe.evaluation.objects import (
    Boxes,
    annotated,
    detections_of,
    objects_of,
)
from mmdet_moe.layers import Decision
from mmdet_moe.sizes import SIZES, size_of

from .average_precision import NOTHING, AveragePrecision
from .loading import loaded_image
from .matching import MAX_DETECTIONS
from .subject import Columns, GroupOf, Subject, unique


@dataclass(frozen=True)
class BoxesSeen:
    """Boxes of a picture, and which are true; see :class:`.Located`."""
    boxes: Boxes
    true: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def columns(self) -> Columns:
        boxes = self.boxes
        return dict(
            box=boxes.boxes.astype(np.float32),
            label=boxes.labels.astype(np.int32),
            area=boxes.areas.astype(np.float32),
            level=boxes.levels.astype(np.int8),
            score=boxes.scores.astype(np.float32),
            true=self.true)

    def under(self, decision: Decision) -> np.ndarray:
        return self.boxes.under(decision)

    def over(self, decision: Decision) -> np.ndarray:
        return self.boxes.over(decision)


class AnnotatedObjects(Subject):
    """The objects that a CocoDataset has in its pictures, and what a detector
    finds of them."""
    words = AveragePrecision.words
    needs = 'a CocoDataset'
    score_thr = 0.3
    rotated = False
    #: Of the images, where it is known.
    folder: Optional[str] = None

    def __init__(self, dataset: CocoDataset) -> None:
        self.dataset = dataset
        self.folder = dataset.data_prefix.get('img')
        self.source = str(dataset.ann_file)
        self.files = [self.source]
        with get_local_path(
                dataset.ann_file, backend_args=dataset.backend_args) as path:
            self.coco = COCO(path)
        self.rotated = has_rotated_boxes(dataset)
        self._know(dataset.metainfo['classes'], [
            dataset.get_data_info(i)['img_id'] for i in range(len(dataset))])

    @classmethod
    def of(cls, coco: COCO, classes: List[str],
           img_ids: List[int]) -> 'AnnotatedObjects':
        """Of annotations that are read already.

        Args:
            coco: The annotations.
            classes: Names of the classes, in the order of the labels.
            img_ids: All test pictures, by their ids in ``coco``.
        """
        subject = cls.__new__(cls)
        subject.coco, subject.source = coco, 'annotations'
        subject._know(classes, img_ids)
        return subject

    def _know(self, classes: List[str], img_ids: List[int]) -> None:
        self.cat_ids = self.coco.getCatIds(catNms=list(classes))
        # pycocotools sorts by the file, MMDetection takes over its order.
        self.classes = unique(
            self.coco.cats[c]['name'] for c in self.cat_ids)
        self.img_ids = img_ids
        self._ap = self.metric()

    @classmethod
    def fits(cls, dataset) -> bool:
        return isinstance(dataset, CocoDataset)

    def id_of(self, sample) -> int:
        return sample.img_id

    def prepare(self, sample, device: torch.device) -> None:
        # Whatever the pipeline loads, the objects are those of the file.
        boxes, labels, _ = annotated(self.coco, self.cat_ids, sample.img_id)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float),
            labels=torch.tensor(labels)).to(device)

    def forget(self, sample) -> None:
        del sample.gt_instances

    def labelled(self, sample) -> BoxesSeen:
        objects = objects_of(sample, self.coco, self.cat_ids)
        return BoxesSeen(objects, np.ones(len(objects), bool))

    def predicted(self, sample) -> Tuple[BoxesSeen, Columns]:
        found = detections_of(sample)
        true, outcome = self._ap.match(sample.img_id, dict(
            bboxes=found.boxes, scores=found.scores, labels=found.labels))
        return BoxesSeen(found, true), outcome

    def metric(self, outcomes: Optional[Columns] = None) -> AveragePrecision:
        return AveragePrecision(self.coco, self.cat_ids, self.img_ids,
                                NOTHING if outcomes is None else outcomes,
                                self.domains())

    def levels_by(self, sample) -> str:
        return sample.gt_origins.levels_by if 'gt_origins' in sample else ''

    def lines(self, sample, things: BoxesSeen,
              weights: Mapping[str, np.ndarray]) -> List[str]:
        objects, lines = things.boxes, []
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
                    for name, w in weights.items() if not np.isnan(w[i]).any()
                })))
        return lines

    def domains(self) -> List[Optional[str]]:
        return [self.coco.imgs[i].get('domain') for i in self.img_ids]

    def groupings(self, levels: int
                  ) -> Dict[str, Tuple[List[str], GroupOf]]:
        found: Dict[str, Tuple[List[str], GroupOf]] = {
            'size': (list(SIZES), lambda columns: size_of(columns['area'])),
            'level': ([f'level {i}' for i in range(levels)],
                      lambda columns: columns['level'].astype(int)),
            'class': (self.classes, lambda columns: columns['label'])
        }
        above = [self.coco.cats[c].get('supercategory') for c in self.cat_ids]
        supercategories = sorted(set(filter(None, above)))
        if all(above) and len(supercategories) > 1:
            of_label = np.array([supercategories.index(s) for s in above])
            found['supercategory'] = (
                supercategories, lambda columns: of_label[columns['label']])
        return found

    def image(self, index: int, path: str) -> np.ndarray:
        return loaded_image(self.dataset, index)

    def notes(self, records) -> List[str]:
        objects = records.labelled
        said = count_objects(self.coco.dataset, self.cat_ids).left_out
        notes = [said] if said else []
        folder = str(self.folder or '')
        away = [] if not folder or '://' in folder else outside(
            Path(folder), [p.path for p in records.pictures])
        if away:
            notes.append(f'{len(away)} images are not in the folder of the '
                         f'data set, such as {away[0]}. This page may show '
                         'them.')
        if self.rotated:
            notes.append('The boxes of this data set are rotated. AP, matches '
                         'and sizes of this report are those of the horizontal '
                         'boxes around them, and its AP is not that of '
                         'RotatedCocoMetric.')
        if len(objects) == 0:
            return notes + ['The test pictures have no annotated object' + (
                ' that is not left out' if said else ': there is no AP') +
                ', so there is nothing to assign.']
        absent = [name for i, name in enumerate(self.classes)
                  if not (objects.groups['class'] == i).any()]
        if absent:
            notes.append('No object of these classes is in the test pictures, '
                         'they count for nothing: ' + ', '.join(absent) + '.')
        if 0 in self.coco.anns:
            notes.append('An annotation has the id 0. COCOeval, and so AP here '
                         'and in the log, counts this object as never found: '
                         'number annotations from 1.')
        notes += [
            f'No test picture has a {size} object, so there is no AP for this '
            'size.' for i, size in enumerate(SIZES)
            if not (objects.groups['size'] == i).any()
        ]
        notes += crowded(objects.picture, objects.groups['class'])
        if len(records.predicted) == 0:
            notes.append('Nothing was detected at all: the model is '
                         'untrained, or its score_thr too high.')
        if not records.levels:
            notes.append('The head of this detector does not say which level '
                         'an object belongs to, so tables by level are '
                         'missing.')
        return notes


def crowded(images: np.ndarray, labels: np.ndarray) -> List[str]:
    """A note where images have more objects of a class than COCOeval takes
    detections.

    Args:
        images, labels: (n,) of each object.
    """
    places, number = np.unique(np.stack([images, labels]), axis=1,
                               return_counts=True)
    many = number > MAX_DETECTIONS
    if not many.any():
        return []
    most = np.minimum(number, MAX_DETECTIONS).sum() / number.sum()
    return [f'{len(set(places[0, many]))} images have more than '
            f'{MAX_DETECTIONS} objects of a class, {number.max()} at most. '
            f'COCOeval, and so AP, takes {MAX_DETECTIONS} detections of a '
            f'class in an image, so that a perfect detector finds '
            f'{100 * most:.1f} % of all objects.']


def has_rotated_boxes(dataset: CocoDataset) -> bool:
    """Whether the pipeline of a data set makes boxes of another type than
    horizontal ones, as ``box_type='qbox'`` or ``'rbox'`` of a transform."""
    pipeline = getattr(dataset, 'pipeline', None)
    for step in getattr(pipeline, 'transforms', ()):
        kinds = getattr(step, 'box_type_mapping', None) or {}
        kinds = [getattr(step, 'box_type', 'hbox'), *kinds.values(),
                 getattr(step, 'box_type_cls', HorizontalBoxes)]
        if any(get_box_type(kind)[1] is not HorizontalBoxes
               for kind in kinds):
            return True
    return False
