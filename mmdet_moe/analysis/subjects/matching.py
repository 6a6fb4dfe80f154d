"""Detections matched with the objects of a picture, as COCOeval does it.

For all size ranges and IoU thresholds at once, and only for detections that
overlap an object at all; COCOeval loops over both in Python. The AP of a
report is tested to be COCOeval's own.
"""
from typing import NamedTuple, Sequence

import numpy as np
from pycocotools import mask

from mmdet_moe.sizes import SIZE_BOUNDS

IOUS = np.linspace(0.5, 0.95, 10)
#: Areas in pixels, both ends included: of all sizes, small, medium, large.
SIZE_RANGES = np.array([(0, 1e10), (0, SIZE_BOUNDS[0]), SIZE_BOUNDS,
                        (SIZE_BOUNDS[1], 1e10)])
#: Of a class in a picture.
MAX_DETECTIONS = 100
# What COCOeval takes off a threshold of 1.
_LEAST = np.minimum(IOUS, 1 - 1e-10)[:, None]


class Matches(NamedTuple):
    """Which detections of one class in one picture are true, best score first.

    Attributes:
        detections: (n,) which of the given ones these are; at most
            ``MAX_DETECTIONS``.
        hits: (size ranges, IoU thresholds, n) true positives.
        misses: The same, false positives. What is neither is not counted:
            it has another size, or covers an object that is ignored.
        objects: (size ranges,) how many objects count.
    """
    detections: np.ndarray
    hits: np.ndarray
    misses: np.ndarray
    objects: np.ndarray


def match(boxes: np.ndarray, scores: np.ndarray,
          annotations: Sequence[dict]) -> Matches:
    """Each detection in turn takes the free object that it overlaps most.

    One that counts for the size range goes before one that is ignored; a
    crowd is ignored and never used up. As for COCOeval, an object whose
    annotation has the id 0 is taken, but never found.

    Args:
        boxes: (m, 4) as x, y, width, height in pixels.
        scores: (m,).
        annotations: COCO's, of the same class and picture.
    """
    order = np.argsort(-scores, kind='stable')[:MAX_DETECTIONS]
    boxes = boxes[order]
    crowd = np.array([a.get('iscrowd', 0) for a in annotations], bool)
    counts = ~crowd & _within([a['area'] for a in annotations])
    # COCOeval marks a match by the id of the object, and 0 is no match for it.
    seen = np.array([a['id'] != 0 for a in annotations], bool)
    ious = np.zeros((len(boxes), len(crowd)))
    if ious.size:
        ious = np.asarray(mask.iou(
            boxes, np.array([a['bbox'] for a in annotations], float),
            crowd.astype(np.uint8)))
    shape = (len(SIZE_RANGES), len(IOUS))
    hits = np.zeros((*shape, len(boxes)), bool)
    misses = np.repeat(_within(boxes[:, 2] * boxes[:, 3])[:, None],
                       len(IOUS), axis=1)
    # By overlap, of equal ones the last; those that count before the others.
    rank = ious.argsort(axis=1, kind='stable').argsort(axis=1)
    preferred = counts * len(crowd)
    free = np.ones((*shape, len(crowd)), bool)
    for d in (ious >= IOUS[0]).any(axis=1).nonzero()[0]:
        allowed = free & (ious[d] >= _LEAST)
        best = np.where(allowed, (rank[d] + preferred)[:, None], -1).argmax(-1)
        range_, threshold = allowed.any(axis=-1).nonzero()
        taken = best[range_, threshold]
        free[range_, threshold, taken] = crowd[taken]
        counted = counts[range_, taken]
        hits[range_, threshold, d] = counted & seen[taken]
        misses[range_, threshold, d] &= counted & ~seen[taken]
    return Matches(order, hits, misses, counts.sum(axis=1))


def _within(areas: Sequence[float]) -> np.ndarray:
    """Areas (n,) -> (size ranges, n) whether a range holds them."""
    areas = np.asarray(areas, float)
    low, high = SIZE_RANGES.T[:, :, None]
    return (areas >= low) & (areas <= high)
