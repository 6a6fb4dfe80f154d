"""What becomes of AP under interventions: differences, with intervals."""
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from .average_precision import METRICS, AveragePrecision, by_class, metrics_of
from .dissociation import Losses
from .records import Records
from .resampling import interval

#: Metrics by size, and what they are about.
SIZES = dict(AP_S='small objects', AP_M='medium objects', AP_L='large objects')


def effects(records: Records, base: np.ndarray, counts: np.ndarray
            ) -> Tuple[List[dict], Dict[str, Dict[int, Losses]]]:
    """AP under each intervention, and the difference to the model as it is.

    Both are of the same resample, so that the interval is of the difference.

    Args:
        records: Of a run.
        base: What :func:`precisions` gives for the model as it is.
        counts: (R, I) how often each picture is in each resample.

    Returns:
        A row for each intervention; and by layer and expert what each group
        of objects, by size and by class, loses without that expert.
    """
    rows: List[dict] = []
    losses: Dict[str, Dict[int, Losses]] = {}
    for intervention, ap in records.interventions.items():
        own = base if ap is records.ap else precisions(ap, counts)
        before, after = metrics_of(base), metrics_of(own)
        rows.append(
            dict(
                layer=intervention.layer,
                kind=intervention.kind,
                value=intervention.value,
                as_trained=ap is records.ap,
                ap=in_json(after),
                difference=in_json(
                    {name: after[name] - before[name]
                     for name in METRICS}),
                difference_by_class=_classes(
                    by_class(own) - by_class(base), records.classes)))
        if intervention.kind == 'drop':
            losses.setdefault(intervention.layer, {})[intervention.value] = {
                **{group: before[name] - after[name]
                   for name, group in SIZES.items()},
                **{f'objects of class {name}': lost for name, lost in zip(
                    records.classes, by_class(base) - by_class(own))}
            }
    return rows, losses


def precisions(ap: AveragePrecision, counts: np.ndarray) -> np.ndarray:
    """Of the pictures themselves and then of each resample."""
    return ap.precisions(np.concatenate([np.ones_like(counts[:1]), counts]))


def in_json(metrics: Dict[str, np.ndarray]) -> Dict[str, dict]:
    """(1 + R,) each -> the value, and the interval of the resamples."""
    return {
        name: dict(value=_number(x[0]), interval=interval(x[1:]))
        for name, x in metrics.items()
    }


def classes_in_json(found: np.ndarray,
                    classes: Sequence[str]) -> Dict[str, dict]:
    """AP of each class, of what :func:`precisions` gave."""
    return _classes(by_class(found), classes)


def _classes(ap: np.ndarray, classes: Sequence[str]) -> Dict[str, dict]:
    return in_json(dict(zip(classes, ap)))


def _number(x: float) -> Optional[float]:
    return None if np.isnan(x) else float(x)
