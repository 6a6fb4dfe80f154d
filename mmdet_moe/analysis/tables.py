"""Records -> the numbers of the report: JSON-ready, None where there is none.

Every number that is a mean over pictures has a 95 % interval ``low``, ``high``
by bootstrap over the pictures.
"""
from dataclasses import asdict, dataclass
from typing import Dict, List, Optional

import numpy as np

from mmdet_moe.assignment_table import assignment_table, usage
from mmdet_moe.layers import split_usage
from mmdet_moe.layers.checks import check_int, fail

from .effects import (
    by_group_in_json,
    effects,
    functions,
    in_json,
    rare_groups,
    resampled,
)
from .information import expert_tells, input_dependence, level_tells
from .layer_record import LayerRecord
from .random_gates import RandomGates
from .records import Records, Things
from .resampling import bootstrap_counts, interval
from .stability import profile
from .verdict import verdict

#: Groups that are named for each expert.
TOP = 5
#: Properties, and another one that each is also asked for beyond: a domain may
#: have objects of one size only, and classes may belong to a domain each.
BEYOND = (('domain', 'size'), ('class', 'domain'))


@dataclass(frozen=True)
class Options:
    """How the numbers are made.

    Attributes:
        score_thr: Predictions below this score are not in the tables. That of
            the subject if None: 0.3 for detections, 0 for whole pictures.
        resamples: Of the bootstrap.
        permutations: Of the tests.
        seed: Of both.

    Raises:
        ValueError: A value is not allowed.
    """
    score_thr: Optional[float] = None
    resamples: int = 500
    permutations: int = 999
    seed: int = 0

    def __post_init__(self) -> None:
        check_int('resamples', self.resamples, 1)
        check_int('permutations', self.permutations, 1)
        check_int('seed', self.seed, 0)
        if self.score_thr is not None and not 0 <= self.score_thr <= 1:
            fail('score_thr', self.score_thr, 'between 0 and 1')


def make_tables(records: Records, options: Options) -> dict:
    """All numbers of the report.

    Args:
        records: Of a run.
        options: With a ``score_thr``.

    Returns:
        ``num_images``, ``num_labelled``, ``num_correct``; ``options``;
        ``levels_by``, how objects got their levels;
        ``words`` of the metric, ``metrics`` and ``metric_by``, by
        grouping and group;
        ``layers``, by name, as :func:`layer_tables` gives them, with
        ``functions`` of its experts, as :func:`.effects.functions` gives
        them, and a ``verdict`` in words;
        ``interventions``, a list.
    """
    rng = np.random.default_rng(options.seed)
    counts = bootstrap_counts(
        len(records.pictures), options.resamples, rng)
    detected = records.predicted
    correct = detected[detected.true & (detected.score >= options.score_thr)]
    words = records.metric.words
    rare = rare_groups(records)
    base = resampled(records.metric, counts, rare)
    rows, lost = effects(records, base, counts, rare)
    layers = {}
    for name in records.layers:
        table = layer_tables(
            records, name, correct=correct, counts=counts, options=options)
        table['functions'] = functions(
            lost[name], {e for e, s in enumerate(table['share']) if s > 0},
            words, {by: records.groupings[by] for by in base.by_group})
        table['verdict'] = verdict(
            table, [row for row in rows if row['layer'] == name], words)
        layers[name] = table
    return dict(
        num_images=len(records.pictures),
        num_labelled=len(records.labelled),
        num_correct=len(correct),
        options=asdict(options),
        levels_by=records.levels_by,
        words=asdict(words),
        metrics=in_json(base.overall),
        metric_by=by_group_in_json(base.by_group, records.groupings),
        layers=layers,
        interventions=rows)


def layer_tables(records: Records, name: str, *, correct: Things,
                 counts: np.ndarray, options: Options) -> dict:
    """The numbers of one MoE layer.

    Args:
        records: Of a run.
        name: Of the layer.
        correct: What is predicted rightly.
        counts: (R, I) how often each picture is in each resample.
        options: How the numbers are made.

    Returns:
        ``experts``, ``top_k``; whether a gate has learned what it
        ``chooses``; ``maps`` of a picture that it decides about,
        0 for regions and queries, and ``patches`` of each at most; the number
        of ``places``, levels or queries;
        importance, share, their CV and living experts, over all decisions,
        and of the first three ``intervals``; ``input_dependence``;
        ``coactivation``, E x E;
        ``profile``, what each expert is used for by class, size and level
        together; ``labelled`` and ``correct``, what is annotated and what is
        predicted rightly, by each of the groupings; ``top``, by grouping with
        many groups, for each expert those that it weighs most, with its mean
        weight; ``specialisation``, what
        the expert tells of what is annotated, and
        ``specialisation_over_boxes``, the same of the mean weights over boxes,
        if there is more than one decision about a map.
    """
    layer = records.layers[name]
    labelled = _by_group(records, name, records.labelled, counts)
    return dict(
        experts=layer.experts,
        top_k=layer.top_k,
        chooses=layer.chooses,
        maps=layer.maps,
        patches=layer.patches,
        places=layer.sums.shape[1],
        **usage(layer.sums.sum(axis=(0, 1))),
        intervals=_usage_intervals(layer, counts),
        input_dependence=_input_dependence(layer, counts),
        coactivation=_coactivation(layer),
        profile=_profile(records, name),
        labelled=labelled,
        correct=_by_group(records, name, correct, counts),
        top=_top(labelled, layer.experts),
        specialisation=_specialisation(
            records, name, _all_weights(records, name),
            options, records.features.get(name)),
        specialisation_over_boxes=_specialisation(
            records, name, records.over[name], options)
        if layer.patches > 1 and name in records.over else None)


def _all_weights(records: Records, name: str) -> np.ndarray:
    """(n, E) expert weights of all objects, NaN where there are none."""
    located = records.located(name, records.labelled)
    weights = np.full((len(located), records.layers[name].experts), np.nan)
    weights[located] = records.weights(name, records.labelled[located])
    return weights


def _by_group(records: Records, name: str, things: Things,
              counts: np.ndarray) -> dict:
    located = records.located(name, things)
    tables = dict(unassigned=int((~located).sum()))
    things = things[located]
    weights = records.weights(name, things)
    for by, names in records.groupings.items():
        group = things.groups[by]
        known = group >= 0  # without a level
        table = assignment_table(weights[known], group[known],
                                 dict(enumerate(names)))
        ranges = _weight_intervals(weights[known], group[known], len(names),
                                   things.picture[known], counts)
        for row, range_ in zip(table.values(), ranges):
            row['interval'] = range_ if row['count'] else None
        tables[by] = table
    return tables


def _top(tables: dict, experts: int) -> Dict[str, List[List[list]]]:
    """By grouping with more than ``TOP`` groups, for each expert the ``TOP``
    that it has the highest mean weight for: their names and these weights."""
    found = {}
    for by, table in tables.items():
        if by == 'unassigned' or len(table) <= TOP:
            continue
        known = {name: row['weight'] for name, row in table.items()
                 if row['count']}
        found[by] = [
            [[name, known[name][e]] for name in sorted(
                known, key=lambda name: -known[name][e])[:TOP]]
            for e in range(experts)
        ]
    return found


def _profile(records: Records, name: str) -> dict:
    things = records.labelled[records.located(name, records.labelled)]
    found = profile(
        records.weights(name, things),
        [(things.groups[by], records.groupings[by])
         for by in ('class', 'size', 'level') if by in records.groupings])
    return dict(
        groups=found.groups,
        counts=found.counts.tolist(),
        weights=found.weights.tolist())


def _weight_intervals(weights: np.ndarray, group: np.ndarray, groups: int,
                      picture: np.ndarray,
                      counts: np.ndarray) -> List[List[Optional[dict]]]:
    """Intervals of the mean weight, for each group and expert."""
    experts = weights.shape[1]
    pictures = counts.shape[1]
    sums = np.zeros((pictures, groups, experts + 1))
    np.add.at(sums, (picture, group),
              np.concatenate([weights, np.ones((len(weights), 1))], axis=1))
    drawn = np.tensordot(counts.astype(float), sums, axes=1)
    with np.errstate(invalid='ignore'):
        means = drawn[..., :-1] / drawn[..., -1:]
    return [[interval(means[:, g, e]) for e in range(experts)]
            for g in range(groups)]


def _usage_intervals(layer: LayerRecord, counts: np.ndarray) -> dict:
    """Intervals of importance, share and their CV."""
    number, _, weights, load = split_usage(counts @ layer.sums.sum(axis=1))
    importance, share = (x / np.maximum(number, 1)[:, None]
                         for x in (weights, load))
    result = {
        key: [interval(x[:, e]) for e in range(layer.experts)]
        for key, x in (('importance', importance), ('share', share))
    }
    for key, x in (('importance_cv', importance), ('share_cv', share)):
        result[key] = interval(
            x.std(axis=1, ddof=1) /
            x.mean(axis=1) if layer.experts > 1 else np.zeros(len(x)))
    return result


def _coactivation(layer: LayerRecord) -> List[List[Optional[float]]]:
    """How often two experts are selected together, over how often they would
    be if one did not depend on the other, E x E; None for an expert with
    itself, and for one that is never selected."""
    number, _, _, load = split_usage(layer.sums.sum(axis=(0, 1)))
    together = layer.together / number
    expected = np.outer(load / number, load / number)
    np.fill_diagonal(expected, 0)
    return [[float(a / b) if b > 0 else None for a, b in zip(*rows)]
            for rows in zip(together, expected)]


def _input_dependence(layer: LayerRecord, counts: np.ndarray) -> dict:
    """Bits, over all decisions and given the level or query, and the most
    possible."""
    result = dict(most=float(np.log2(layer.experts)))
    for key, given_place in (('all', False), ('given_place', True)):
        bits, drawn = (
            input_dependence(layer.sums, c, given_place=given_place)
            for c in (None, counts))
        result[key] = dict(bits=float(bits[0]), interval=interval(drawn))
    return result


def _specialisation(records: Records, name: str, weights: np.ndarray,
                    options: Options,
                    features: Optional[np.ndarray] = None) -> List[dict]:
    """A row for each question: does the expert tell size, level, class?

    And those of ``BEYOND`` also given the other property. ``weights`` (n, E)
    and ``features`` (n, C) are those of all objects.
    """
    located = records.located(name, records.labelled)
    things, weights = records.labelled[located], weights[located]
    features = None if features is None else features[located]
    level = things.groups.get('level', np.full(len(things), -1))
    rng = np.random.default_rng(options.seed)

    def row(of: str, group: np.ndarray, groups: int, asked: np.ndarray,
            given: Optional[np.ndarray] = None, given_level: bool = False,
            lookup: Optional[dict] = None) -> dict:
        tells = expert_tells(
            weights[asked],
            group[asked],
            groups=groups,
            picture=things.picture[asked],
            rng=rng,
            level=None if given is None else given[asked],
            permutations=options.permutations,
            at_random=() if features is None else RandomGates(
                features[asked], weights[asked], options.seed))
        return dict(of=of, given_level=given_level,
                    number=int(asked.sum()), **asdict(tells),
                    by_level_only=lookup)

    rows = []
    for by, names in records.groupings.items():
        group = things.groups[by]
        known, with_level = group >= 0, (group >= 0) & (level >= 0)
        beside_level = by != 'level' and with_level.any()
        if known.any():
            rows.append(row(
                by, group, len(names), known, lookup=level_tells(
                    weights[with_level], group[with_level], groups=len(names),
                    level=level[with_level]) if beside_level else None))
        if beside_level:
            rows.append(
                row(by, group, len(names), with_level, level, True))
        for other in (y for x, y in BEYOND
                      if x == by and y in records.groupings):
            given = things.groups[other]
            both = (with_level if beside_level else known) & (given >= 0)
            if both.any():
                rows.append(row(
                    f'{by}, given the {other}', group, len(names), both,
                    level * len(records.groupings[other]) + given
                    if beside_level else given, bool(beside_level)))
    return rows
