"""Tables of records whose answers are known."""
from dataclasses import replace

import numpy as np
import pytest
from planted import decision, records

from mmdet_moe.analysis.layer_record import layer_record, observe
from mmdet_moe.analysis.resampling import bootstrap_counts
from mmdet_moe.analysis.tables import (
    Options,
    _coactivation,
    _weight_intervals,
    layer_tables,
)
from mmdet_moe.layers import PatchScope


def tables(planted):
    counts = bootstrap_counts(
        len(planted.pictures), 20, np.random.default_rng(0))
    return layer_tables(
        planted, 'moe', correct=planted.predicted, counts=counts,
        options=Options(permutations=19))


def test_expert_by_level(tmp_path):
    table = tables(records(tmp_path))
    # 24 pictures: i / 24 of level 0 go to expert 0, all of level 1 to 1
    level = table['labelled']['level']
    assert level['level 0']['weight'] == pytest.approx([11.5 / 24, 12.5 / 24])
    assert level['level 1']['weight'] == [0, 1]
    assert table['importance'] == pytest.approx([5.75 / 24, 18.25 / 24])
    assert table['share'] == pytest.approx([23 / 48, 1])
    low, high = table['intervals']['importance'][0].values()
    assert low < 5.75 / 24 < high
    rows = {(row['of'], row['given_level']): row
            for row in table['specialisation']}
    # all objects are small, and of one class: nothing can be told
    assert set(rows) == {('size', False), ('size', True), ('level', False),
                         ('class', False), ('class', True)}
    assert rows['size', False]['normalised'] is None
    assert rows['level', False]['p_value'] == 1 / 20


def test_no_object_is_under_a_decision(tmp_path):
    planted = records(tmp_path)
    layer = replace(planted.layers['moe'], weights=np.zeros((0, 2)))
    planted = replace(planted, layers=dict(moe=layer), labelled=replace(
        planted.labelled, under=dict(moe=np.full(48, -1))))
    table = tables(planted)
    assert table['specialisation'] == []
    assert table['labelled']['unassigned'] == 48
    assert table['importance'] == pytest.approx([5.75 / 24, 18.25 / 24])


def test_patches_are_decisions(tmp_path):
    """Level 0 has two patches, level 1 one: three decisions a picture."""

    def make(row, logits):
        return decision([row[0], row[1], row[1]], scope=PatchScope(2),
                        shapes=((1, 2, 1), (1, 1, 1)))

    planted = records(tmp_path, make=make)
    under = 3 * planted.labelled.picture + 2 * planted.labelled.groups['level']
    weights = planted.layers['moe'].weights[under]
    planted = replace(planted, labelled=replace(
        planted.labelled, under=dict(moe=under)), over=dict(moe=weights))
    table = tables(planted)
    assert table['specialisation_over_boxes'] == table['specialisation']
    assert (table['maps'], table['patches']) == (2, 2)
    assert table['importance'] == pytest.approx([11.5 / 24 / 3, 1 - 11.5 / 72])
    assert table['share'] == pytest.approx([23 / 72, 1])
    low, high = table['intervals']['importance'][0].values()
    assert low < 11.5 / 72 < high < 0.25
    assert table['labelled']['level']['level 0']['weight'] == pytest.approx(
        [11.5 / 24, 12.5 / 24])


def test_without_levels_no_table_of_levels(tmp_path):
    planted = records(tmp_path)
    without = [{by: x for by, x in known.items() if by != 'level'}
               for known in (planted.groupings, planted.labelled.groups)]
    table = tables(replace(planted, groupings=without[0], labelled=replace(
        planted.labelled, groups=without[1])))
    assert [row['of'] for row in table['specialisation']] == ['size', 'class']
    assert all(row['by_level_only'] is None for row in table['specialisation'])
    assert table['labelled']['size']['small']['count'] == 48


def test_objects_of_a_picture_are_drawn_together():
    # two pictures: three objects with expert 0, one object with expert 1
    weights = np.array([[1.0, 0]] * 3 + [[0.0, 1]])
    picture, group = np.array([0, 0, 0, 1]), np.zeros(4, int)
    counts = np.array([[2, 0], [1, 1], [1, 1], [0, 2]] * 50)
    (first, second), (nothing, _) = _weight_intervals(
        weights, group, 2, picture, counts)
    # outcomes 1, 3/4, 0: a quarter of the resamples is at either end
    assert first == dict(low=0, high=1) and second == dict(low=0, high=1)
    assert nothing is None  # the second group has no object
    middle = np.array([[1, 1]] * 50)
    assert _weight_intervals(weights, group, 1, picture, middle)[0][0] == dict(
        low=0.75, high=0.75)


def test_a_domain_that_is_a_size(tmp_path):
    """What is told of such a domain is what is told of the size."""
    plain = records(tmp_path)
    late = (plain.labelled.picture >= 12).astype(int)
    objects = replace(plain.labelled, groups=dict(
        plain.labelled.groups, size=2 - 2 * late, domain=late, **{
            'class': plain.labelled.picture // 6}))
    planted = replace(
        plain, groupings=dict(plain.groupings, domain=['early', 'late'], **{
            'class': ['a', 'b', 'c', 'd']}),
        labelled=objects, predicted=objects[:0])
    bits = {row['of']: row['bits']
            for row in tables(planted)['specialisation']
            if row['given_level']}
    assert bits['domain'] == bits['size'] > 0.05
    assert bits['domain, given the size'] == pytest.approx(0, abs=1e-9)
    # Each domain has two classes of its own. By the chain rule
    # I(expert; class) = I(expert; domain) + I(expert; class | domain).
    assert bits['class, given the domain'] == pytest.approx(
        bits['class'] - bits['domain'])
    assert bits['class, given the domain'] > 0.01


def test_coactivation_by_hand():
    """Of four decisions two are for 0 and 1, and two for 0 and 2."""
    weights = np.array([[.5, .5, 0, 0], [.5, .5, 0, 0], [.9, 0, .1, 0],
                        [.9, 0, .1, 0]])
    one = decision(weights)
    kept, _ = observe(one, [np.arange(4)], one.weights, one.routing.logits)
    found = _coactivation(layer_record(kept, top_k=2))
    # 0 is always there: 1/2 over 1 x 1/2; 1 and 2 never meet
    assert found[0] == [None, 1, 1, None]
    assert found[1] == [1, None, 0, None]
    assert found[3] == [None] * 4
