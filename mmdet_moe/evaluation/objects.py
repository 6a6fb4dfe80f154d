"""Objects and detections of a picture as arrays, and where they belong.

Boxes are x1, y1, x2, y2 in pixels of the original picture; those of another
type, such as rotated ones, are the horizontal boxes around them. Data samples
may be MMDetection's, or the dicts that evaluators are given.
"""
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np
import torch
from mmdet.structures.bbox import get_box_tensor
from pycocotools.coco import COCO

from mmdet_moe.datasets.objects import is_object
from mmdet_moe.detection.boxes import areas, enclosing
from mmdet_moe.detection.mask_boxes import boxes_of
from mmdet_moe.layers import Decision
from mmdet_moe.names import weights_field


@dataclass(frozen=True)
class Boxes:
    """Objects, or detections, of one picture: n of them.

    Attributes:
        boxes: (n, 4).
        labels: (n,) class.
        areas: (n,) in pixels; annotated, or of the box as it was detected.
        scores: (n,) of a detection; 1 for an object.
        levels: (n,) pyramid level, -1 if it has none.
        items: (n,) number of the region or query, -1 if it has none.
    """
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    scores: np.ndarray
    levels: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows) -> 'Boxes':
        return Boxes(*(getattr(self, name)[rows]
                       for name in self.__dataclass_fields__))

    def under(self, decision: Decision) -> np.ndarray:
        """(n,) which sample of a layer's decision each is under, or -1."""
        return decision.find(*self._where()).numpy()

    def over(self, decision: Decision) -> np.ndarray:
        """(n, E) expert weights, the mean over each box; NaN where the layer
        decided nothing about it."""
        return decision.over(*self._where()).numpy()

    def _where(self) -> Tuple[torch.Tensor, ...]:
        return tuple(map(torch.from_numpy,
                         (self.boxes, self.levels, self.items)))


def annotated(coco: COCO, cat_ids: Sequence[int],
              img_id: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The annotated objects that CocoDataset has for a picture.

    Args:
        coco: The annotations.
        cat_ids: COCO's category of each label.
        img_id: Of the picture.

    Returns:
        Boxes (n, 4), labels (n,), areas in pixels (n,).
    """
    label = {c: n for n, c in enumerate(cat_ids)}
    image = coco.imgs[img_id]
    rows = []
    for a in coco.imgToAnns[img_id]:
        x, y, w, h = a['bbox']
        if a['category_id'] in label and is_object(a, image):
            rows.append(
                (x, y, x + w, y + h, label[a['category_id']], a['area']))
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return table[:, :4], table[:, 4].astype(int), table[:, 5]


def objects_of(sample, coco: COCO, cat_ids: Sequence[int]) -> Boxes:
    """The annotated objects of a data sample that a detector returned.

    Their areas are those of the annotation file, their levels and items what
    the detector says of the objects that the pipeline has loaded.

    Raises:
        ValueError: The pipeline has loaded none, or others than are in the
            file; or the detections are those of a flipped image.
    """
    img_id = sample.get('img_id')
    if sample.get('flip') and any(
            weights_field(name) in sample.get('pred_instances')
            for name in sample.get('decisions') or ()):
        raise ValueError(  # those that are merged have no weights
            f'image {img_id} was flipped, and so are its detections; remove '
            'RandomFlip from the test pipeline, or merge its views '
            "(dict(type='DetTTAModel'))")
    boxes, labels, areas = annotated(coco, cat_ids, img_id)
    loaded = sample.get('gt_instances')
    if loaded is None or loaded.get('labels') is None:
        raise ValueError(
            'no objects came with the pictures; the test pipeline needs '
            "dict(type='LoadAnnotations', with_bbox=True) after Resize")
    found = _array(enclosing(loaded.get('bboxes')))
    # A file has the horizontal boxes around polygons, from which rotated ones
    # are made.
    if get_box_tensor(loaded.get('bboxes')).shape[-1] == 4:
        reach = np.ones(len(boxes))
    else:
        reach = np.maximum(boxes[:, 2:] - boxes[:, :2], 2).max(axis=1) / 2
    names = [coco.cats[c]['name'] for c in cat_ids]
    for i in range(max(len(found), len(boxes))):
        if i < len(found) and i < len(boxes) and (
                np.abs(found[i] - boxes[i]).max() <= reach[i]
                and int(loaded.get('labels')[i]) == labels[i]):
            continue
        kind, box, where = (
            (names[int(loaded.get('labels')[i])], found[i], coco.source)
            if i < len(found) else (names[labels[i]], boxes[i],
                                    'what the dataloader loads'))
        raise ValueError(
            f'image {img_id} has a {kind} at {box.tolist()} that is not in '
            f'{where}. The evaluator and the dataloader must use the same '
            'file, and LoadAnnotations must come after Resize and RandomFlip.')
    origins = sample.get('gt_origins')
    return Boxes(boxes, labels, areas, np.ones(len(boxes)),
                 _whole(origins, 'level_ids', len(boxes)),
                 _whole(origins, 'item_ids', len(boxes)))


def detections_of(sample) -> Boxes:
    """The detections of a data sample."""
    found = sample.get('pred_instances')
    own = boxes_of(found)
    boxes = _array(enclosing(own)).astype(float)
    return Boxes(boxes, _array(found.get('labels')),
                 _array(areas(own.double())),
                 _array(found.get('scores')).astype(float),
                 _whole(found, 'level_ids', len(boxes)),
                 _whole(found, 'item_ids', len(boxes)))


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _whole(instances, key: str, n: int) -> np.ndarray:
    """(n,) int64 field of instances; -1 where there is none."""
    values: Optional[torch.Tensor] = None if instances is None else (
        instances.get(key))
    return np.full(n, -1) if values is None else _array(values)
