"""Which expert processed which object: the metric."""
import json
import logging
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from pycocotools.coco import COCO
from terminaltables import AsciiTable

from mmdet_moe.assignment_table import assignment_table, usage
from mmdet_moe.files import write_text
from mmdet_moe.layers import rows_at, usage_sums
from mmdet_moe.names import metric_key
from mmdet_moe.sizes import SIZES, size_of

from .objects import Boxes, detections_of, objects_of


@METRICS.register_module()
class ExpertAssignmentMetric(BaseMetric):
    """Tabulates expert weights by COCO size, pyramid level and class.

    For every annotated object, and for every detection: the weights with
    which each MoE layer processed it, as the layer's decision says (see
    :class:`.DecisionReporter` and :class:`.Decision`). Size is by the
    annotation's area for objects and by the box for detections: small < 32^2
    <= medium < 96^2 <= large.

    Needs a detector that reports its decisions (``type='MoEDetector'``, or
    ``custom_hooks=[dict(type='MoEHook')]``), and a test pipeline with
    LoadAnnotations after Resize, as MMDetection's own are.

    Args:
        ann_file: COCO annotation file; its areas decide the sizes.
        score_thr: Detections below this score are not counted.
        outfile: JSON file for the complete tables; not written if None.
        backend_args: File backend of ``ann_file``.
        collect_device: Device to collect results on over ranks.
        prefix: Prefix of the returned scalars, ``moe`` if None.

    Returned scalars, for each layer, by its dotted name, and expert:
        ``{layer}_importance_cv``, ``{layer}_living_experts``,
        ``{layer}_expert{e}_importance`` (mean weight over all decisions),
        ``{layer}_expert{e}_{size}`` (mean weight over the objects of that
        size). None at all where nothing was detected, as CocoMetric does, so
        that ``save_best`` passes over that evaluation.
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
        self.coco.source = ann_file

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep what is needed of each image; arrays only."""
        for sample in data_samples:
            if sample.get('decisions') is None:
                raise ValueError(
                    'ExpertAssignmentMetric: the detector does not report its '
                    "decisions; give it type='MoEDetector', or the config "
                    "custom_hooks=[dict(type='MoEHook')], or remove the "
                    'metric from the evaluator')
            try:
                objects = objects_of(sample, self.coco, self._cat_ids())
            except ValueError as error:
                raise ValueError(f'ExpertAssignmentMetric: {error}') from None
            found = detections_of(sample)
            counted = found[found.scores >= self.score_thr]
            self.results.append(
                dict(
                    img_id=sample['img_id'],
                    usage={
                        name: usage_sums(
                            decision.of_images(decision.weights))[0].numpy()
                        for name, decision in sample['decisions'].items()
                    },
                    objects=_kept(objects, sample['decisions']),
                    detections=_kept(counted, sample['decisions']),
                    levels_by=(sample.get('gt_origins') or {}).get('levels_by'),
                    any_detection=len(found) > 0))

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
        over all decisions), their CV, ``living_experts``, and under
        ``objects`` and ``detections``, by ``size``, ``level`` and ``class``:
        ``count``, mean ``weight`` and share of the objects that an expert
        has the highest weight for, ``leading``; ``unassigned`` is the number
        of those that the layer made no decision about. ``levels_by`` says how
        objects got their levels: by the training's ``'assigner'``, or as the
        ``'detection'`` that matches them.
        """
        classes = {
            i: self.coco.cats[c]['name']
            for i, c in enumerate(self._cat_ids())
        }
        most = max((int(r[kind]['levels'].max(initial=-1)) for r in results
                    for kind in ('objects', 'detections')), default=-1)
        levels = {i: f'level {i}' for i in range(most + 1)}
        # A layer that is not used for some picture is not reported at all.
        names = [
            name for name in (results[0]['usage'] if results else ())
            if all(name in r['usage'] for r in results)
        ]
        layers = {}
        for layer in names:
            layers[layer] = dict(
                **usage(sum(r['usage'][layer] for r in results)),
                **{
                    kind: _by_group([r[kind] for r in results], layer, levels,
                                    classes)
                    for kind in ('objects', 'detections')
                })
        return dict(
            ann_file=str(self.ann_file),
            num_images=len(results),
            score_thr=self.score_thr,
            levels_by=next((r['levels_by'] for r in results), None),
            layers=layers)

    def _cat_ids(self) -> List[int]:
        # As MMDetection's CocoDataset numbers its labels.
        names = self.dataset_meta['classes']
        return self.coco.getCatIds(catNms=list(names))


def _kept(boxes: Boxes, decisions: dict) -> dict:
    return dict(
        labels=boxes.labels,
        areas=boxes.areas,
        levels=boxes.levels,
        weights={
            name: rows_at(decision.weights,
                          torch.from_numpy(boxes.under(decision))).numpy()
            for name, decision in decisions.items()
        })


def _by_group(kept: Sequence[dict], layer: str, levels: dict,
              classes: dict) -> dict:
    rows = np.concatenate([k['weights'][layer] for k in kept])
    known = ~np.isnan(rows).any(axis=1)
    labels, areas, level = (
        np.concatenate([k[key] for k in kept])[known]
        for key in ('labels', 'areas', 'levels'))
    rows = rows[known]
    by = dict(
        size=(size_of(areas), dict(enumerate(SIZES))),
        level=(level, levels),
        **{'class': (labels, classes)})
    return dict(
        unassigned=int((~known).sum()),
        **{
            key: assignment_table(rows, group, names)
            for key, (group, names) in by.items()
        })


def _scalars(tables: dict) -> Dict[str, float]:
    scalars = {}
    for layer, table in tables['layers'].items():
        for what in ('importance_cv', 'living_experts'):
            scalars[metric_key(layer, what)] = table[what]
        for e, importance in enumerate(table['importance']):
            scalars[metric_key(layer, 'importance', e)] = importance
            for size, row in table['objects']['size'].items():
                if row['count']:
                    scalars[metric_key(layer, size, e)] = row['weight'][e]
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
