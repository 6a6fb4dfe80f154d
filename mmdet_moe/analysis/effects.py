"""What becomes of AP under interventions: differences, with intervals."""
from collections import defaultdict
from dataclasses import asdict
from itertools import combinations
from typing import (
    Container,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from .average_precision import METRICS, AveragePrecision, by_class, metrics_of
from .dissociation import Losses, double_dissociations
from .records import Records
from .resampling import interval

#: Metrics by size, and what they are about.
SIZES = dict(AP_S='small objects', AP_M='medium objects', AP_L='large objects')
ALL = 'all objects'


#: What groups of objects lose, by kind and value of an intervention.
Lost = Mapping[str, Mapping[Union[int, Tuple[int, int]], Losses]]


def effects(records: Records, base: np.ndarray, counts: np.ndarray
            ) -> Tuple[List[dict], Dict[str, Lost]]:
    """AP under each intervention, and the difference to the model as it is.

    Both are of the same resample, so that the interval is of the difference.

    Args:
        records: Of a run.
        base: What :func:`precisions` gives for the model as it is.
        counts: (R, I) how often each picture is in each resample.

    Returns:
        A row for each intervention but draws of experts; and by layer what
        each group of objects, by size and by class, loses, and all together.
    """
    rows: List[dict] = []
    lost: Dict[str, dict] = defaultdict(lambda: defaultdict(dict))
    for intervention, ap in records.interventions.items():
        own = base if ap is records.ap else precisions(ap, counts)
        before, after = metrics_of(base), metrics_of(own)
        lost[intervention.layer][intervention.kind][intervention.value] = {
            ALL: before['AP'] - after['AP'],
            **{group: before[name] - after[name]
               for name, group in SIZES.items()},
            **{f'objects of class {name}': of_class for name, of_class in zip(
                records.classes, by_class(base) - by_class(own))}
        }
        if intervention.kind == 'random_routing':
            continue  # one draw says little: their mean is in the functions
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
    return rows, lost


def functions(lost: Lost, used: Container[int]) -> dict:
    """Whether the experts of a layer can do different things.

    Args:
        lost: By the groups of objects, of a layer.
        used: Experts that are selected at all. One that is not may never have
            been trained: that others can do more than it says nothing.

    Returns:
        ``dissociations``, by what is lost without an expert, as
        :class:`.Dissociations` has them; ``by_others``: by expert, what each
        group loses on the mean when another expert that is used does what this
        one is selected for; ``dissociations_by_others``, by that;
        ``not_interchangeable``: pairs of experts in use neither of which can
        do the work of the other, with what all objects lose;
        ``at_random``: what each group loses when the experts of each sample
        are drawn at random, on the mean over the draws; empty without any.
    """
    replaced = {pair: losses for pair, losses in lost.get('replace', {}).items()
                if pair[0] in used and pair[1] in used}
    by_others = {
        e: _mean([losses for (selected, _), losses in replaced.items()
                  if selected == e])
        for e in dict.fromkeys(selected for selected, _ in replaced)
    }
    pairs = []
    for e, f in combinations(by_others, 2):
        both = in_json({
            i: replaced[pair][ALL]
            for i, pair in enumerate(((e, f), (f, e)))
        })
        if all(_above_0(x['interval']) for x in both.values()):
            pairs.append(dict(experts=[e, f], lost=[both[0], both[1]]))
    return dict(
        dissociations=_dissociations(lost.get('drop', {})),
        by_others={e: in_json(groups) for e, groups in by_others.items()},
        dissociations_by_others=_dissociations(by_others),
        not_interchangeable=pairs,
        at_random=in_json(_mean([*lost.get('random_routing', {}).values()])))


def _mean(losses: Sequence[Losses]) -> Losses:
    """The mean loss of each group."""
    return {group: np.mean([one[group] for one in losses], axis=0)
            for group in (losses[0] if losses else ())}


def _dissociations(losses: Mapping[int, Losses]) -> dict:
    """Between groups, of which one that has all objects is none."""
    return asdict(
        double_dissociations({
            e: {group: x for group, x in groups.items() if group != ALL}
            for e, groups in losses.items()
        }))


def _above_0(range_: Optional[dict]) -> bool:
    return range_ is not None and range_['low'] > 0


def precisions(ap: AveragePrecision, counts: np.ndarray) -> np.ndarray:
    """Precisions of the pictures themselves and then of each resample."""
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
