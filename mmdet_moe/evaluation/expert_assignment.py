"""Which expert processed which object: the metric."""
import json
import logging
from typing import Dict, List, Optional, Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from pycocotools.coco import COCO
from terminaltables import AsciiTable

from mmdet_moe.files import write_text

from .assignment_table import SIZES, assignment_table, size_of, usage


@METRICS.register_module()
class ExpertAssignmentMetric(BaseMetric):
    """Tabulates expert weights by COCO size, pyramid level and class.

    For every ground-truth object: the weights with which the experts
    processed the level that it is assigned to. For every detection: the
    weights of its own level. Size is by the annotation's area for objects
    and by the box for detections: small < 32^2 <= medium < 96^2 <= large.

    Needs a head that reports its experts, as MoERetinaHead does, and a test
    pipeline with LoadAnnotations after Resize, as MMDetection's own are.

    Args:
        ann_file: COCO annotation file; its areas decide the sizes.
        score_thr: Detections below this score are not counted.
        outfile: JSON file for the complete tables; not written if None.
        backend_args: File backend of ``ann_file``.
        collect_device: Device to collect results on over ranks.
        prefix: Prefix of the returned scalars, ``moe`` if None.

    Returned scalars, for each layer (``cls``, ``reg``) and expert:
        ``{layer}_importance_cv``, ``{layer}_living_experts``,
        ``{layer}_expert{e}_importance`` (mean weight over all images and
        levels), ``{layer}_expert{e}_{size}`` (mean weight over the objects
        of that size). None at all where nothing was detected, as CocoMetric
        does, so that ``save_best`` passes over that evaluation.
    """
    default_prefix = 'moe'

    def __init__(self,
                 ann_file: str,
                 score_thr: float = 0.3,
                 outfile: Optional[str] = None,
                 backend_args: Optional[dict] = None,
                 collect_device: str = 'cpu',
                 prefix: Optional[str] = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.ann_file = ann_file
        self.score_thr = score_thr
        self.outfile = outfile
        with get_local_path(ann_file, backend_args=backend_args) as path:
            self.coco = COCO(path)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep what is needed of each image; arrays only."""
        for sample in data_samples:
            if 'expert_weights' not in sample:
                raise ValueError(
                    'ExpertAssignmentMetric: the head does not report expert '
                    "weights; use type='MoERetinaHead' or remove the metric "
                    'from the evaluator')
            if 'level_ids' not in sample.get('gt_instances', {}):
                raise ValueError(
                    'ExpertAssignmentMetric: no objects came with the '
                    'pictures; the test pipeline needs '
                    "dict(type='LoadAnnotations', with_bbox=True) after "
                    'Resize, and the model its train_cfg (for the assigner)')
            predicted = sample['pred_instances']
            counted = predicted['scores'] >= self.score_thr
            self.results.append(
                dict(
                    img_id=sample['img_id'],
                    weights=_arrays(sample['expert_weights']),
                    objects=_arrays(sample['gt_instances'], 'bboxes', 'labels',
                                    'level_ids'),
                    detections=_arrays(
                        {k: predicted[k][counted]
                         for k in ('bboxes', 'labels', 'level_ids')}),
                    any_detection=len(predicted['scores']) > 0))

    def compute_metrics(self, results: List[dict]) -> Dict[str, float]:
        """The scalars; prints the tables and writes the JSON file."""
        tables = self.tables(results)
        for layer, table in tables['layers'].items():
            print_log(
                '\n' + _format(layer, table), logger='current')
        if self.outfile is not None:
            write_text(self.outfile, json.dumps(tables, indent=1))
        if not any(r['any_detection'] for r in results):
            print_log(
                f'No detections at all in the {len(results)} pictures of '
                f'{self.ann_file}, so there is no AP. The model is untrained, '
                'its score_thr too high, or the checkpoint another one.',
                logger='current',
                level=logging.WARNING)
            return {}
        return _scalars(tables)

    def tables(self, results: List[dict]) -> dict:
        """All tables of the given images, JSON-ready.

        ``layers[layer]`` has ``importance`` and ``share`` (E numbers each,
        over images and levels), their CV, ``living_experts``, and under
        ``objects`` and ``detections``, by ``size``, ``level`` and ``class``:
        ``count``, mean ``weight`` and share of the objects that an expert
        has the highest weight for, ``leading``.
        """
        areas = [self._areas(r) for r in results]
        box_areas = [_box_area(r['detections']['bboxes']) for r in results]
        classes = {
            i: self.coco.cats[c]['name']
            for i, c in enumerate(self._cat_ids())
        }
        layers = {}
        for layer in sorted(results[0]['weights']) if results else ():
            weights = [r['weights'][layer] for r in results]  # (L, E) each
            levels = {i: f'level {i}' for i in range(len(weights[0]))}
            layers[layer] = dict(
                **usage(np.concatenate(weights)),
                objects=self._by_group(results, 'objects', weights, areas,
                                       levels, classes),
                detections=self._by_group(results, 'detections', weights,
                                          box_areas, levels, classes))
        return dict(
            ann_file=str(self.ann_file),
            num_images=len(results),
            score_thr=self.score_thr,
            layers=layers)

    @staticmethod
    def _by_group(results, kind, weights, areas, levels, classes) -> dict:
        level = np.concatenate([r[kind]['level_ids'] for r in results])
        label = np.concatenate([r[kind]['labels'] for r in results])
        size = size_of(np.concatenate(areas))
        rows = np.concatenate(
            [w[r[kind]['level_ids']] for w, r in zip(weights, results)])
        known = level >= 0
        rows = rows[known]
        return dict(
            unassigned=int((~known).sum()),
            size=assignment_table(rows, size[known], dict(enumerate(SIZES))),
            level=assignment_table(rows, level[known], levels),
            **{'class': assignment_table(rows, label[known], classes)})

    def _cat_ids(self) -> List[int]:
        # As MMDetection's CocoDataset numbers its labels.
        names = self.dataset_meta['classes']
        return self.coco.getCatIds(catNms=list(names))

    def _areas(self, result: dict) -> np.ndarray:
        """Annotated area of each object; found by category and box."""
        cat_ids = self._cat_ids()
        candidates = [
            a for a in self.coco.imgToAnns[result['img_id']]
            if not a.get('iscrowd', False)
        ]
        areas = []
        objects = result['objects']
        for box, label in zip(objects['bboxes'], objects['labels']):
            distance = [
                np.abs(_corners(a['bbox']) - box).max()
                if a['category_id'] == cat_ids[label] else np.inf
                for a in candidates
            ]
            if not distance or min(distance) > 1:
                raise ValueError(
                    f'ExpertAssignmentMetric: image {result["img_id"]} has a '
                    f'{self.coco.cats[cat_ids[label]]["name"]} at '
                    f'{box.tolist()} that is not in {self.ann_file}. The '
                    'evaluator and the dataloader must use the same file, and '
                    'LoadAnnotations must come after Resize.')
            areas.append(candidates[int(np.argmin(distance))]['area'])
        return np.array(areas, dtype=float)


def _arrays(tensors: dict, *keys: str) -> Dict[str, np.ndarray]:
    return {k: tensors[k].cpu().numpy() for k in keys or tensors}


def _corners(xywh: Sequence[float]) -> np.ndarray:
    x, y, w, h = xywh
    return np.array([x, y, x + w, y + h])


def _box_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _scalars(tables: dict) -> Dict[str, float]:
    scalars = {}
    for layer, table in tables['layers'].items():
        scalars[f'{layer}_importance_cv'] = table['importance_cv']
        scalars[f'{layer}_living_experts'] = table['living_experts']
        for e, importance in enumerate(table['importance']):
            scalars[f'{layer}_expert{e}_importance'] = importance
            for size, row in table['objects']['size'].items():
                if row['count']:
                    scalars[f'{layer}_expert{e}_{size}'] = row['weight'][e]
    return scalars


def _format(layer: str, table: dict) -> str:
    """The table that is printed: a row for each expert, per cent."""
    objects = table['objects']
    columns = {**objects['size'], **objects['level']}
    rows = [['expert', 'importance', 'share'] +
            [f'{name} ({row["count"]})' for name, row in columns.items()]]
    for e in range(len(table['importance'])):
        rows.append([str(e)] + [
            f'{100 * x:.1f}'
            for x in (table['importance'][e], table['share'][e])
        ] + [
            f'{100 * row["weight"][e]:.1f}' if row['count'] else '-'
            for row in columns.values()
        ])
    title = f'{layer}: expert weight, %, by objects\' size and level'
    return AsciiTable(rows, title).table
