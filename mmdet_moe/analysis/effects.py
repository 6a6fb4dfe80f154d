"""What interventions do to the metric: differences, with intervals."""
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

from .dissociation import Losses, double_dissociations
from .metric import Metric, Values, Words
from .records import Records
from .resampling import interval

#: What groups of things lose, by kind and value of an intervention.
Lost = Mapping[str, Mapping[Union[int, Tuple[int, int]], Losses]]


#: By grouping (groups,) bool.
Rare = Mapping[str, np.ndarray]
#: Of a group in fewer pictures there are no intervals: all resamples of one or
#: two pictures are alike, and noise would look like an effect.
LEAST = 10


def effects(records: Records, base: Values, counts: np.ndarray,
            rare: Rare) -> Tuple[List[dict], Dict[str, Lost]]:
    """The metric under each intervention, and the difference to the model as
    it is.

    Both are of the same resample, so that the interval is of the difference.

    Args:
        records: Of a run.
        base: What :func:`resampled` gives for the model as it is.
        counts: (R, I) how often each picture is in each resample.
        rare: As :func:`rare_groups` gives them.

    Returns:
        A row for each intervention but draws of experts; and by layer what
        each part and each group of things loses, and all together.
    """
    rows: List[dict] = []
    lost: Dict[str, dict] = defaultdict(lambda: defaultdict(dict))
    for intervention, metric in records.interventions.items():
        own = base if metric is records.metric else resampled(
            metric, counts, rare)
        more = {name: after - base.overall[name]
                for name, after in own.overall.items()}
        more_by = {by: own.by_group[by] - x for by, x in base.by_group.items()}
        lost[intervention.layer][intervention.kind][
            intervention.value] = _losses(
                records.metric.words, records.groupings, more, more_by)
        if intervention.kind == 'random_routing':
            continue  # one draw says little: their mean is in the functions
        rows.append(
            dict(
                layer=intervention.layer,
                kind=intervention.kind,
                value=intervention.value,
                as_trained=metric is records.metric,
                metrics=in_json(own.overall),
                difference=in_json(more),
                difference_by=by_group_in_json(more_by, records.groupings)))
    return rows, lost


def _losses(words: Words, groupings: Mapping[str, Sequence[str]],
            more: Dict[str, np.ndarray],
            more_by: Dict[str, np.ndarray]) -> Losses:
    """Differences -> what is lost, by the words for whom."""
    return {
        words.all: -more[words.metric],
        **{part: -more[name] for name, part in words.parts.items()},
        **{words.of_group(by, name): -x for by, own in more_by.items()
           for name, x in zip(groupings[by], own)}
    }


def functions(lost: Lost, used: Container[int], words: Words,
              groupings: Mapping[str, Sequence[str]]) -> dict:
    """Whether the experts of a layer can do different things.

    Args:
        lost: By the groups of objects, of a layer.
        used: Experts that are selected at all. One that is not may never have
            been trained: that others can do more than it says nothing.
        words: Of the metric.
        groupings: The names of the groups, by grouping.

    Returns:
        ``dissociations``, by what is lost without an expert, as
        :class:`.Dissociations` has them; ``dissociations_by``, the same among
        the groups of each grouping alone; ``by_others``: by expert, what each
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
    dropped = lost.get('drop', {})
    pairs = []
    for e, f in combinations(by_others, 2):
        both = in_json({
            i: replaced[pair][words.all]
            for i, pair in enumerate(((e, f), (f, e)))
        })
        if all(_above_0(x['interval']) for x in both.values()):
            pairs.append(dict(experts=[e, f], lost=[both[0], both[1]]))
    return dict(
        dissociations=_dissociations(dropped, words),
        dissociations_by={
            by: _dissociations({
                e: {group: x for group, x in groups.items() if group in {
                    words.of_group(by, name) for name in names}}
                for e, groups in dropped.items()
            }, words)
            for by, names in groupings.items()
        } if dropped else {},
        by_others={e: in_json(groups) for e, groups in by_others.items()},
        dissociations_by_others=_dissociations(by_others, words),
        not_interchangeable=pairs,
        at_random=in_json(_mean([*lost.get('random_routing', {}).values()])))


def _mean(losses: Sequence[Losses]) -> Losses:
    """The mean loss of each group."""
    return {group: np.mean([one[group] for one in losses], axis=0)
            for group in (losses[0] if losses else ())}


def _dissociations(losses: Mapping[int, Losses], words: Words) -> dict:
    """Between groups, of which one that has all things is none."""
    return asdict(
        double_dissociations({
            e: {group: x for group, x in groups.items()
                if group != words.all}
            for e, groups in losses.items()
        }))


def _above_0(range_: Optional[dict]) -> bool:
    return range_ is not None and range_['low'] > 0


def rare_groups(records: Records) -> Rare:
    """Groups that fewer than ``LEAST`` pictures have something of."""
    things, found = records.labelled, {}
    for by, names in records.groupings.items():
        seen = np.unique(
            np.stack([things.picture, things.groups[by]]), axis=1)[1]
        found[by] = np.bincount(
            seen[seen >= 0], minlength=len(names)) < LEAST
    return found


def resampled(metric: Metric, counts: np.ndarray, rare: Rare) -> Values:
    """The metric of the pictures themselves and then of each resample; NaN for
    the resamples of rare groups."""
    values = metric.values(np.concatenate([np.ones_like(counts[:1]), counts]))
    for by, of_groups in values.by_group.items():
        of_groups[rare[by], 1:] = np.nan
    return values


def in_json(metrics: Dict[str, np.ndarray]) -> Dict[str, dict]:
    """(1 + R,) each -> the value, and the interval of the resamples."""
    return {
        name: dict(value=_number(x[0]), interval=interval(x[1:]))
        for name, x in metrics.items()
    }


def by_group_in_json(values: Mapping[str, np.ndarray],
                     groupings: Mapping[str, Sequence[str]]
                     ) -> Dict[str, Dict[str, dict]]:
    """(groups, 1 + R) each -> by grouping and group the value and the
    interval."""
    return {by: in_json(dict(zip(groupings[by], x)))
            for by, x in values.items()}


def _number(x: float) -> Optional[float]:
    return None if np.isnan(x) else float(x)
