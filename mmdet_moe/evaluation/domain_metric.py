"""AP by domain, where a test set is a mixture of several."""
from typing import Dict, List, Sequence

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import print_log
from terminaltables import AsciiTable

from mmdet_moe.datasets.domains import domain_of
from mmdet_moe.layers.checks import fail
from mmdet_moe.sizes import size_of

#: Metrics of the table by domain, as CocoMetric names them.
COLUMNS = ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75', 'bbox_mAP_s',
           'bbox_mAP_m', 'bbox_mAP_l')


@METRICS.register_module()
class DomainCocoMetric(CocoMetric):
    """CocoMetric for the whole test set, and for each domain on its own.

    The domain of a picture is a key of its entry in the annotation file. The
    AP of a domain is the mean over the classes that have objects in it.

    Args:
        domain_key: The key.
        kwargs: As of CocoMetric; ``ann_file`` is required.

    Returned scalars: those of CocoMetric, and by domain
    ``{domain}/bbox_mAP`` and so on; ``domains/bbox_mAP`` is the mean over the
    domains. A domain in which nothing is detected has an AP of 0, one without
    objects -1, which counts for nothing. ``outfile_prefix`` is of the files of
    the whole test set.

    Raises:
        ValueError: There is no ``ann_file``, or another ``metric`` or
            ``metric_items`` than those of boxes.
        DataError: A picture has no such key.
    """

    def __init__(self, *args, domain_key: str = 'domain', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self._coco_api is None:
            raise ValueError('DomainCocoMetric: ann_file=None: allowed is an '
                             'annotation file whose pictures have domains')
        if self.metrics != ['bbox']:
            fail('DomainCocoMetric.metric', self.metrics, "'bbox'")
        if self.metric_items is not None:
            fail('DomainCocoMetric.metric_items', self.metric_items,
                 'None: all of the table by domain are needed')
        self.domains: Dict[str, List[int]] = {}
        for image in self._coco_api.dataset['images']:
            domain = domain_of(image, domain_key, kwargs.get('ann_file'))
            self.domains.setdefault(domain, []).append(image['id'])

    def compute_metrics(self, results: list) -> Dict[str, float]:
        """The scalars; prints the table by domain."""
        whole = dict(super().compute_metrics(results))
        if not whole:
            return whole  # nothing was detected at all
        everything, prefix, rows = self.img_ids, self.outfile_prefix, {}
        self.outfile_prefix = None  # it would be written over, by domain
        try:
            for domain, ids in self.domains.items():
                self.img_ids = ids
                inside = set(ids)
                mine = [r for r in results if r[0]['img_id'] in inside]
                found = any(len(pred['scores']) for _, pred in mine)
                rows[domain] = dict(super().compute_metrics(
                    mine)) if found else self._nothing(ids)
        finally:
            self.img_ids, self.outfile_prefix = everything, prefix
        rows['domains'] = {
            key: _mean([row.get(key, -1) for row in rows.values()])
            for key in COLUMNS
        }
        print_log('\n' + _table(rows, self.domains), logger='current')
        return {
            **whole,
            **{
                f'{domain}/{key}': row[key]
                for domain, row in rows.items() for key in COLUMNS
            }
        }

    def _nothing(self, ids: Sequence[int]) -> Dict[str, float]:
        """The metrics where nothing is detected: 0, or -1 where there is no
        object, of a size or at all."""
        areas = [a['area'] for a in self._coco_api.loadAnns(
            self._coco_api.getAnnIds(imgIds=list(ids)))]
        there = set(size_of(np.array(areas)).tolist())
        return dict.fromkeys(COLUMNS[:3], 0.0 if there else -1.0) | {
            column: 0.0 if size in there else -1.0
            for size, column in enumerate(COLUMNS[3:])
        }


def _mean(values: Sequence[float]) -> float:
    """Over the domains that have objects of that size; -1 if none has, as
    COCO gives it."""
    known = [x for x in values if x >= 0]
    return float(np.mean(known)) if known else -1.0


def _table(rows: Dict[str, dict], domains: Dict[str, List[int]]) -> str:
    head = ['domain', 'pictures', *(c.removeprefix('bbox_') for c in COLUMNS)]
    return AsciiTable([head] + [[
        'mean' if name == 'domains' else name,
        str(len(domains.get(name, ()))) if name != 'domains' else '',
        *('-' if row[c] < 0 else f'{row[c]:.3f}' for c in COLUMNS)
    ] for name, row in rows.items()], 'AP by domain').table
