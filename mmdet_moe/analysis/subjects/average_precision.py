"""COCO's average precision that can be resampled over pictures.

Detections are matched with objects picture by picture; what is kept of that is
a few arrays per class and range of sizes. From these AP follows for
any multiset of the pictures, which is what a bootstrap needs, without matching
again.
"""
from collections import defaultdict
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
from pycocotools.coco import COCO
from scipy.sparse import csr_array

from mmdet_moe.analysis.metric import Values, Words
from mmdet_moe.datasets.objects import is_object

from .matching import IOUS, Matches, match

#: What is reported: (index of the size range, IoU threshold or None for all).
METRICS = {
    'AP': (0, None),
    'AP50': (0, 0.5),
    'AP75': (0, 0.75),
    'AP_S': (1, None),
    'AP_M': (2, None),
    'AP_L': (3, None)
}
#: What CocoMetric calls them.
COCO_METRICS = dict(
    zip(METRICS, ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_75',
                  'coco/bbox_mAP_s', 'coco/bbox_mAP_m', 'coco/bbox_mAP_l')))
RECALLS = np.linspace(0, 1, 101)
#: A bit for each IoU threshold.
BITS = 1 << np.arange(len(IOUS), dtype=np.int16)

_WHERE = [('category', np.int32), ('size', np.int8), ('picture', np.int32)]
OBJECTS = np.dtype([*_WHERE, ('number', np.int32)])
DETECTIONS = np.dtype([*_WHERE, ('score', float), ('hits', np.int16),
                       ('misses', np.int16)])
#: Of no picture.
NOTHING = dict(
    objects=np.empty(0, OBJECTS), detections=np.empty(0, DETECTIONS))


def _values(precisions: np.ndarray) -> Values:
    """(R, classes, ranges of sizes, IoU thresholds) -> their means."""
    return Values(
        overall={
            name: _mean(precisions[:, :, size] if iou is None else
                        precisions[:, :, size, np.isclose(IOUS, iou)])
            for name, (size, iou) in METRICS.items()
        },
        by_group={'class': np.stack([
            _mean(of_class)
            for of_class in precisions[:, :, 0].swapaxes(0, 1)
        ])})


def _mean(precisions: np.ndarray) -> np.ndarray:
    """(R, ...) -> (R,), of what is there; NaN where nothing is."""
    rows = precisions.reshape(len(precisions), -1)
    known = ~np.isnan(rows)
    number = known.sum(axis=1)
    total = np.where(known, rows, 0).sum(axis=1)
    return np.divide(total, number, where=number > 0,
                     out=np.full(len(rows), np.nan))


def read_test(content: dict) -> Dict[str, Optional[float]]:
    """What CocoMetric has written for a test."""
    if COCO_METRICS['AP'] not in content:
        return {}
    values = {name: content.get(key, -1) for name, key in COCO_METRICS.items()}
    # -1 is what COCO gives where no object is of a size
    return {name: x if x >= 0 else None for name, x in values.items()}


class AveragePrecision:
    """AP of the detections of I pictures.

    Args:
        coco: The annotations.
        cat_ids: COCO's category of each label.
        img_ids: The I pictures that AP is over.
        matched: What :meth:`match` gave for their detections, joined. It is
            asked for the arrays whenever AP is computed, so a mapping that
            reads them from files needs no memory meanwhile.
        domains: (I,) the domain of each picture, None where it has none. AP by
            domain is that of the pictures of one domain alone.
    """
    words = Words(
        metric='AP',
        title='Average precision by object size',
        note='AP of COCO in per cent: the mean over IoU thresholds 0.50 to '
        '0.95 and over classes. Sizes by annotated area: small below 32², '
        'medium below 96², large from 96² pixels. A resample without an object '
        'of some class and size leaves that class out of the mean, so where a '
        'class has few objects of a size the interval is wide and skew.',
        things='objects',
        thing='an object',
        predictions='detections',
        correct='True positives: detections with a score of at least '
        '{score_thr} that match an object at IoU 0.5. Size is that of the box.',
        by='size',
        measures={
            'AP, AP50, AP75': 'Area under the precision-recall curve, mean '
            'over classes; over IoU thresholds 0.50 to 0.95, or at one of '
            'them. AP_S, AP_M, AP_L count objects of one size.'},
        parts=dict(AP_S='small objects', AP_M='medium objects',
                   AP_L='large objects'))

    def __init__(self, coco: COCO, cat_ids: Sequence[int],
                 img_ids: Sequence[int],
                 matched: Mapping[str, np.ndarray] = NOTHING,
                 domains: Sequence[Optional[str]] = ()) -> None:
        self.coco = coco
        self.cat_ids = list(cat_ids)
        # COCOeval takes pictures in the order of their ids.
        self._index = {i: n for n, i in enumerate(sorted(img_ids))}
        self._order = np.array([self._index[i] for i in img_ids])
        self._matched = matched
        self._domains = np.array([d or '' for d in domains])

    def match(self, img_id: int,
              found: dict) -> Tuple[np.ndarray, Dict[str, np.ndarray]]:
        """Match the detections of a picture; nothing is added to AP.

        Args:
            img_id: Out of the I pictures.
            found: Arrays ``bboxes`` (n, 4) as x1, y1, x2, y2 in pixels of the
                original picture, ``scores``, ``labels`` (n,).

        Returns:
            (n,) bool, true positives at IoU 0.5; and what AP needs of them.
        """
        true = np.zeros(len(found['scores']), bool)
        kept = [tuple(NOTHING.values())]
        annotations = defaultdict(list)
        for annotation in self.coco.imgToAnns[img_id]:
            annotations[annotation['category_id']].append(annotation)
        for label, category in enumerate(self.cat_ids):
            rows = (found['labels'] == label).nonzero()[0]
            if len(rows) or category in annotations:
                boxes, scores = (found[key][rows].astype(float)
                                 for key in ('bboxes', 'scores'))
                boxes[:, 2:] -= boxes[:, :2]
                matches = match(boxes, scores, annotations[category])
                kept.append(_kept((label, self._index[img_id]), matches,
                                  scores))
                # An object that the tables leave out makes nothing true.
                tabled = [a for a in annotations[category] if a.get('iscrowd')
                          or is_object(a, self.coco.imgs[img_id])]
                if len(tabled) < len(annotations[category]):
                    matches = match(boxes, scores, tabled)
                true[rows[matches.detections[matches.hits[0, 0]]]] = True
        objects, detections = map(np.concatenate, zip(*kept))
        return true, dict(objects=objects, detections=detections)

    def values(self, counts: np.ndarray) -> Values:
        """AP, AP50, AP75, AP_S, AP_M, AP_L, and AP by class, and by domain
        if there are several, of multisets of the pictures.

        Args:
            counts: (R, I) how often each picture is taken, in the order of
                ``img_ids``.
        """
        values = _values(self.precisions(counts))
        # Sorted, as the names of the grouping are.
        names = sorted(set(self._domains.tolist()) - {''})
        if len(names) > 1:
            inside = [counts * (self._domains == name) for name in names]
            values.by_group['domain'] = np.stack(
                [_mean(self.precisions(c)[:, :, 0]) for c in inside])
        return values

    def precisions(self, counts: np.ndarray) -> np.ndarray:
        """The mean precisions that AP is the mean of, for multisets.

        Args:
            counts: As of :meth:`values`.

        Returns:
            (R, classes, ranges of sizes, IoU thresholds); the first range is
            that of all sizes. NaN where there is no object.
        """
        found = np.full((len(counts), len(self.cat_ids), 4, len(IOUS)), np.nan)
        weights = np.zeros((len(counts), len(self._order)))
        weights[:, self._order] = counts
        for (category, size), curve in self._curves().items():
            found[:, category, size] = curve.precision(weights)
        return found

    def _curves(self) -> Dict[tuple, '_Curve']:
        """By class and range of sizes; those without an object are left out."""
        objects = self._matched['objects']
        detections = self._matched['detections']
        # As COCOeval: best score first, then in the order of the pictures.
        detections = detections[np.lexsort(
            (detections['picture'], -detections['score']))]
        key, objects_key = ((x['category'] * 4 + x['size'])
                            for x in (detections, objects))
        return {
            divmod(int(k), 4): _Curve(objects[objects_key == k],
                                      detections[key == k], len(self._order))
            for k in np.unique(objects_key)
        }


def _kept(where: Tuple[int, int], matches: Matches,
          scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """What AP depends on, of a class and a picture: ``OBJECTS`` and
    ``DETECTIONS``."""
    sizes = matches.objects.nonzero()[0]
    objects = np.empty(len(sizes), OBJECTS)
    objects['category'], objects['picture'] = where
    objects['size'], objects['number'] = sizes, matches.objects[sizes]
    sizes, which = (matches.hits | matches.misses).any(axis=1).nonzero()
    detections = np.empty(len(sizes), DETECTIONS)
    detections['category'], detections['picture'] = where
    detections['size'] = sizes
    detections['score'] = scores[matches.detections[which]]
    for key in ('hits', 'misses'):
        detections[key] = getattr(matches, key)[sizes, :, which] @ BITS
    return objects, detections


class _Curve:
    """Precision over recall of one class and range of sizes.

    Args:
        objects: ``OBJECTS`` of each picture.
        detections: ``DETECTIONS``, best first.
        pictures: How many there are.
    """

    def __init__(self, objects: np.ndarray, detections: np.ndarray,
                 pictures: int) -> None:
        self.objects, self.pictures = objects, pictures
        self.picture = detections['picture']
        # (IoU thresholds, detections)
        self.hits, self.misses = ((detections[key] & BITS[:, None]) > 0
                                  for key in ('hits', 'misses'))

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Mean precision over 101 recalls, (R, IoU thresholds), of weights
        (R, I) of the pictures; NaN where these have no object.

        The arithmetic is COCOeval's, at the hits only: recall grows there,
        and between two of them precision falls.
        """
        total = weights[:, self.objects['picture']] @ self.objects['number']
        means = np.full((len(weights), len(IOUS)), np.nan)
        some = total.nonzero()[0]
        for t, (hits, misses) in enumerate(zip(self.hits, self.misses)):
            at = hits.nonzero()[0]
            up_to = [
                np.cumsum(self._between(at, which) @ weights[some].T, axis=0)
                for which in (at, misses.nonzero()[0])
            ]
            means[some, t] = _mean_precision(*up_to, total[some])
        return means

    def _between(self, at: np.ndarray, which: np.ndarray) -> csr_array:
        """(n, I) how many of the detections ``which`` of each picture come
        after the hit before each of the n hits, up to it."""
        segment = np.searchsorted(at, which)
        before = segment < len(at)  # what comes after the last hit
        return csr_array(
            (np.ones(before.sum()), (segment[before],
                                     self.picture[which][before])),
            shape=(len(at), self.pictures))


def _mean_precision(hits: np.ndarray, misses: np.ndarray,
                    total: np.ndarray) -> np.ndarray:
    """Average precision of n hits, best first, in R resamples.

    Args:
        hits, misses: (n, R), how many there are up to each hit.
        total: (R,) number of objects.

    Returns:
        (R,)
    """
    precision = hits / (hits + misses + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # How many of the 101 recalls each hit is the first to reach.
    reached = np.searchsorted(RECALLS, hits / total, side='right')
    first = np.diff(reached, axis=0, prepend=0)
    return (envelope * first).sum(axis=0) / len(RECALLS)
