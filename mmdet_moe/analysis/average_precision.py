"""COCO's average precision that can be resampled over pictures.

COCOeval matches detections with objects, picture by picture; what is kept of
that is a few arrays per class and range of sizes. From these AP follows for
any multiset of the pictures, which is what a bootstrap needs, without matching
again.
"""
import contextlib
import io
from typing import Dict, List, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

#: What is reported: (index of the size range, IoU threshold or None for all).
METRICS = {
    'AP': (0, None),
    'AP50': (0, 0.5),
    'AP75': (0, 0.75),
    'AP_S': (1, None),
    'AP_M': (2, None),
    'AP_L': (3, None)
}
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
#: Detections times resamples that are summed up together.
MOST_AT_ONCE = 1_000_000
#: A bit for each IoU threshold.
BITS = 1 << np.arange(len(IOUS), dtype=np.int16)

_WHERE = [('category', np.int32), ('size', np.int8), ('place', np.int32)]
OBJECTS = np.dtype([*_WHERE, ('number', np.int32)])
DETECTIONS = np.dtype([*_WHERE, ('score', float), ('hits', np.int16),
                       ('misses', np.int16)])


def metrics_of(precisions: np.ndarray) -> Dict[str, np.ndarray]:
    """What :meth:`AveragePrecision.precisions` gave -> AP, AP50, AP75, AP_S,
    AP_M, AP_L, (R,) each."""
    return {
        name: _mean(precisions[:, :, size] if iou is None else
                    precisions[:, :, size, np.isclose(IOUS, iou)])
        for name, (size, iou) in METRICS.items()
    }


def by_class(precisions: np.ndarray) -> np.ndarray:
    """The same -> AP of each class, over all sizes, (classes, R)."""
    return np.stack([_mean(of_class) for of_class in precisions[:, :, 0]
                     .swapaxes(0, 1)])


def _mean(precisions: np.ndarray) -> np.ndarray:
    """(R, ...) -> (R,), of what is there; NaN where nothing is."""
    rows = precisions.reshape(len(precisions), -1)
    known = ~np.isnan(rows)
    number = known.sum(axis=1)
    total = np.where(known, rows, 0).sum(axis=1)
    return np.divide(total, number, where=number > 0,
                     out=np.full(len(rows), np.nan))


class AveragePrecision:
    """AP of the detections of I pictures.

    Args:
        coco: The annotations.
        cat_ids: COCO's category of each label.
        img_ids: The I pictures that AP is over.
    """

    def __init__(self, coco: COCO, cat_ids: Sequence[int],
                 img_ids: Sequence[int]) -> None:
        self.coco = coco
        self.cat_ids = list(cat_ids)
        # COCOeval takes pictures in the order of their ids.
        self._place = {i: n for n, i in enumerate(sorted(img_ids))}
        self._order = np.array([self._place[i] for i in img_ids])
        self._objects: List[np.ndarray] = []
        self._detections: List[np.ndarray] = []

    def add(self, img_ids: Sequence[int],
            detections: Sequence[dict]) -> List[np.ndarray]:
        """Match the detections of some pictures, each picture once.

        Args:
            img_ids: Out of the I pictures.
            detections: For each, arrays ``bboxes`` (n, 4) as x1, y1, x2, y2
                in pixels of the original picture, ``scores``, ``labels`` (n,).

        Returns:
            For each picture (n,) bool: true positives at IoU 0.5.
        """
        results, owner = [], []
        for i, (img_id, found) in enumerate(zip(img_ids, detections)):
            for j, (box, score, label) in enumerate(
                    zip(found['bboxes'].tolist(), found['scores'].tolist(),
                        found['labels'].tolist())):
                x1, y1, x2, y2 = box
                results.append(
                    dict(
                        image_id=img_id,
                        category_id=self.cat_ids[label],
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                        score=score))
                owner.append((i, j))
        hits = [np.zeros(len(found['scores']), bool) for found in detections]
        for found in self._match(img_ids, results):
            i, j = owner[found - 1]  # loadRes counts from 1
            hits[i][j] = True
        return hits

    def __call__(self) -> Dict[str, float]:
        """AP, AP50, AP75, AP_S, AP_M, AP_L; NaN where there is no object."""
        once = np.ones((1, len(self._order)), int)
        return {name: x[0] for name, x in self.resampled(once).items()}

    def resampled(self, counts: np.ndarray) -> Dict[str, np.ndarray]:
        """The same for multisets of the pictures, (R,) each.

        Args:
            counts: (R, I) how often each picture is taken, in the order of
                ``img_ids``.
        """
        return metrics_of(self.precisions(counts))

    def precisions(self, counts: np.ndarray) -> np.ndarray:
        """The mean precisions that AP is the mean of, for multisets.

        Args:
            counts: As of :meth:`resampled`.

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
        objects = np.concatenate(self._objects)
        detections = np.concatenate(self._detections)
        # As COCOeval: best score first, then in the order of the pictures.
        detections = detections[np.lexsort(
            (detections['place'], -detections['score']))]
        key, objects_key = ((x['category'] * 4 + x['size'])
                            for x in (detections, objects))
        return {
            divmod(int(k), 4): _Curve(objects[objects_key == k],
                                      detections[key == k])
            for k in np.unique(objects_key)
        }

    def _only(self, img_ids: Sequence[int]) -> COCO:
        """The annotations of some pictures.

        Copies, because COCOeval overwrites what they say of ``ignore``; and
        few, because it indexes all that it is given.
        """
        coco = COCO()
        coco.dataset = dict(
            images=[self.coco.imgs[i] for i in img_ids],
            annotations=[
                dict(a) for i in img_ids for a in self.coco.imgToAnns[i]
            ],
            categories=list(self.coco.cats.values()))
        coco.createIndex()
        return coco

    def _match(self, img_ids: Sequence[int],
               results: List[dict]) -> List[int]:
        """Run COCOeval and keep what counts; the ids of true positives."""
        with contextlib.redirect_stdout(io.StringIO()):
            annotated = self._only(img_ids)
            found = annotated.loadRes(results) if results else COCO()
            evaluation = COCOeval(annotated, found, 'bbox')
            evaluation.params.imgIds = list(img_ids)
            evaluation.params.catIds = self.cat_ids
            evaluation.params.iouThrs = IOUS
            evaluation.params.maxDets = [MAX_DETECTIONS]
            evaluation.evaluate()
        label = {c: n for n, c in enumerate(self.cat_ids)}
        ranges = [tuple(r) for r in evaluation.params.areaRng]
        objects, detections, true = [], [], []
        for cell in filter(None, evaluation.evalImgs):
            size = ranges.index(tuple(cell['aRng']))
            where = (label[cell['category_id']], size,
                     self._place[cell['image_id']])
            number = int((np.asarray(cell['gtIgnore']) == 0).sum())
            objects.append((*where, number))
            counted = cell['dtIgnore'] == 0
            hits = (cell['dtMatches'] > 0) & counted
            misses = counted & ~hits
            for i in counted.any(axis=0).nonzero()[0]:
                detections.append((*where, cell['dtScores'][i],
                                   hits[:, i] @ BITS, misses[:, i] @ BITS))
                if size == 0 and hits[0, i]:
                    true.append(cell['dtIds'][i])
        self._objects.append(np.array(objects, OBJECTS))
        self._detections.append(np.array(detections, DETECTIONS))
        return true


class _Curve:
    """Precision over recall of one class and range of sizes.

    Args:
        objects: ``OBJECTS`` of each picture.
        detections: ``DETECTIONS``, best first.
    """

    def __init__(self, objects: np.ndarray, detections: np.ndarray) -> None:
        self.objects = objects
        self.place = detections['place']
        # (IoU thresholds, detections)
        hits, self.misses = ((detections[key] & BITS[:, None]) > 0
                             for key in ('hits', 'misses'))
        self.hits = [row.nonzero()[0] for row in hits]

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Mean precision over 101 recalls, (R, IoU thresholds), of weights
        (R, I) of the pictures; NaN where these have no object.

        The arithmetic is COCOeval's, at the hits only: recall grows there,
        and between two of them precision falls.
        """
        total = weights[:, self.objects['place']] @ self.objects['number']
        means = np.full((len(weights), len(IOUS)), np.nan)
        some = total.nonzero()[0]
        # As many at once as fit into some tens of megabytes.
        at_once = max(1, MOST_AT_ONCE // max(1, len(self.place)))
        for rows in np.split(some, range(at_once, len(some), at_once)):
            times = weights[rows][:, self.place]
            for t, at in enumerate(self.hits):
                means[rows, t] = _mean_precision(
                    np.cumsum(times[:, at], axis=1),
                    np.cumsum(times * self.misses[t], axis=1)[:, at],
                    total[rows])
        return means


def _mean_precision(hits: np.ndarray, misses: np.ndarray,
                    total: np.ndarray) -> np.ndarray:
    """Of n hits, best first, in R resamples: so many hits and misses up to
    each (R, n), out of so many objects (R,) -> (R,)."""
    precision = hits / (hits + misses + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # How many of the 101 recalls each hit is the first to reach.
    reached = np.searchsorted(RECALLS, hits / total[:, None], side='right')
    first = np.diff(reached, axis=1, prepend=0)
    return (envelope * first).sum(axis=1) / len(RECALLS)
