"""Words that are no stronger than the numbers."""
from types import SimpleNamespace

import numpy as np
import pytest

from mmdet_moe.analysis.dissociation import double_dissociations
from mmdet_moe.analysis.effects import functions, rare_groups, resampled
from mmdet_moe.analysis.resampling import bootstrap_counts, interval
from mmdet_moe.analysis.subjects.accuracy import Accuracy
from mmdet_moe.analysis.subjects.average_precision import AveragePrecision
from mmdet_moe.analysis.verdict import verdict

WORDS = AveragePrecision.words


def losses(**groups):
    """A value for each group, and resamples around it."""
    spread = np.linspace(-0.01, 0.01, 41)
    return {name: np.concatenate([[x], x + spread])
            for name, x in groups.items()}


def test_double_dissociation_by_hand():
    found = double_dissociations({
        0: losses(small=0.10, large=0.00, cat=0.2),
        1: losses(small=0.00, large=0.05, cat=0.2),
        2: losses(small=0.00, large=0.00, cat=0.2),  # 0 is needed for more
    })
    one, = found.found
    assert one.experts == (0, 1) and one.groups == ('small', 'large')
    assert [x['value'] for x in one.more] == pytest.approx([0.10, 0.05])
    # what one group gains without an expert is no loss without the other
    one, = double_dissociations({
        0: losses(small=0.10, large=-0.05),
        1: losses(small=0.00, large=0.00)}).found
    assert [x['value'] for x in one.more] == pytest.approx([0.10, 0.05])
    assert [x['value'] for x in one.lost] == pytest.approx([0.10, 0.00])
    assert one.lost[1]['interval']['low'] < 0
    # within the intervals of each other: nothing
    noisy = losses(small=0.10, large=0.0)
    noisy['small'][1:] += np.linspace(-0.3, 0.3, 41)
    assert double_dissociations({
        0: noisy, 1: losses(small=0.0, large=0.05)}).found == []
    nothing = losses(small=np.nan, large=0.0)
    assert double_dissociations({0: nothing, 1: nothing}).found == []


def test_many_groups_dissociate_by_chance():
    """Noise finds pairs, the more the more groups, and is told from others."""
    rng = np.random.default_rng(0)

    def noise(groups, effect=0.0, special=4):
        spread = rng.standard_normal((4, groups, 1))
        again = spread + rng.standard_normal((4, groups, 300))
        found = np.concatenate([spread, again], axis=2)
        for e in range(special):  # each is needed for a group of its own
            found[e, e] += effect
        return double_dissociations({
            e: {str(g): found[e, g] for g in range(groups)}
            for e in range(4)})

    few, many = noise(4), noise(60)
    assert few.by_chance < 0.6 < 3 < many.by_chance
    assert len(many.found) >= 3 and many.p_value > 0.05
    real = noise(4, effect=9.0)
    assert len(real.found) == 6 and real.p_value < 0.01
    # a single pair is enough if it is clear
    single = noise(4, effect=20.0, special=2)
    assert single.found[0].experts == (0, 1) and single.p_value < 0.01


def test_chance_in_rare_groups_is_no_effect():
    """Two experts without which other pictures are lost, by chance alone. All
    resamples of a single picture are alike, as if there were no doubt."""
    sizes = [50] * 10 + [10] + [9] + [1] * 10
    label = np.repeat(np.arange(len(sizes)), sizes)
    pictures = np.arange(len(label))
    names = [str(i) for i in range(len(sizes))]
    rare = rare_groups(SimpleNamespace(
        groupings={'class': names},
        labelled=SimpleNamespace(picture=pictures, groups={'class': label})))

    def draw(rng):
        lost = {}
        counts = bootstrap_counts(len(label), 200, rng)
        for e in range(2):
            metric = Accuracy({'class': (names, np.arange(len(names)))}, dict(
                picture=pictures, label=label,
                rank=rng.random(len(label)) < 0.3))
            found = resampled(metric, counts, rare).by_group['class']
            known = [interval(x[1:]) is not None for x in found]
            assert known == [size >= 10 for size in sizes]
            assert not np.isnan(found[:, 0]).any()
            lost[e] = dict(zip(names, 1 - found))
        return double_dissociations(lost).p_value

    assert min(draw(np.random.default_rng(i)) for i in range(6)) > 0.05


def test_what_experts_can_do_by_hand():
    """Of three experts 0 and 1 can do nothing of each other's work, 2 is
    never selected."""
    none = losses(small=0.0, large=0.0)

    def alone(small, large, everything):
        return losses(small=small, large=large, **{WORDS.all: everything})

    lost = dict(
        drop={0: losses(small=0.2, large=0.0),
              1: losses(small=0.0, large=0.1), 2: none},
        replace={(0, 1): alone(0.4, 0.0, 0.3), (1, 0): alone(0.0, 0.2, 0.1),
                 (0, 2): alone(0.9, 0.9, 0.9), (1, 2): alone(0.9, 0.9, 0.9),
                 (2, 0): alone(0.0, 0.0, 0.0), (2, 1): alone(0.0, 0.0, 0.0)})
    found = functions(lost, used={0, 1}, words=WORDS, groupings={})
    pair, = found['dissociations']['found']
    assert pair['experts'] == (0, 1) and pair['groups'] == ('small', 'large')
    assert set(found['by_others']) == {0, 1}
    assert found['by_others'][0]['small']['value'] == pytest.approx(0.4)
    assert len(found['dissociations_by_others']['found']) == 1
    one, = found['not_interchangeable']
    assert one['experts'] == [0, 1]
    assert [x['value'] for x in one['lost']] == pytest.approx([0.3, 0.1])
    # one that can do the work of the other is enough
    lost['replace'][0, 1] = alone(0.4, 0.0, -0.1)
    assert functions(
        lost, used={0, 1}, words=WORDS,
        groupings={})['not_interchangeable'] == []


def test_dissociations_of_one_grouping_by_hand():
    """Expert 0 is needed for class cat and expert 1 for class dog, which are in
    both domains: classes are dissociated, domains are not."""
    groupings = {'class': ['cat', 'dog'], 'domain': ['day', 'night']}

    def without(cat, dog):
        return losses(**{
            WORDS.of_group('class', 'cat'): cat,
            WORDS.of_group('class', 'dog'): dog,
            WORDS.of_group('domain', 'day'): (cat + dog) / 2,
            WORDS.of_group('domain', 'night'): (cat + dog) / 2})

    found = functions(
        dict(drop={0: without(0.2, 0.0), 1: without(0.0, 0.1)}), used={0, 1},
        words=WORDS, groupings=groupings)['dissociations_by']
    one, = found['class']['found']
    assert one['experts'] == (0, 1)
    assert one['groups'] == ('objects of class cat', 'objects of class dog')
    assert found['domain']['found'] == []


def row(of, given_level, part, p, random=None):
    return dict(of=of, given_level=given_level, normalised=part, p_value=p,
                random_p_value=random)


def layer(*rows, bits=0.5, living=4, dissociations=(), p=0.002,
          chooses=True):
    return dict(
        experts=4, top_k=2, chooses=chooses, living_experts=living,
        specialisation=rows,
        functions=dict(at_random={}, by_others={}, dissociations=dict(
            found=list(dissociations), by_chance=0.2, p_value=p)),
        input_dependence=dict(
            most=2.0, all=dict(bits=bits, interval=dict(low=bits, high=bits))))


def dropped(expert, **changes):
    """Values with intervals of half a point to each side."""
    def change(x):
        return dict(value=x, interval=dict(low=x - 0.005, high=x + 0.005))
    sizes = {key: change(changes.get(key, 0.0))
             for key in ('AP', 'AP_S', 'AP_M', 'AP_L')}
    return dict(kind='drop', value=expert, difference=sizes,
                difference_by={'class': dict(cat=change(0.001))})


LEVELS = (row('level', False, 0.6, 0.001), row('size', False, 0.4, 0.001),
          row('size', True, 0.01, 0.045), row('class', True, 0.004, 0.4))


def test_levels():
    said = verdict(layer(*LEVELS), [], WORDS)
    assert said == [
        'The experts of this layer are specialists for levels. Beyond the '
        'level the expert tells 1 % of size (p = 0.045) and nothing of class '
        'beyond chance (p = 0.400).'
    ]


def test_objects():
    rows = (*LEVELS[:2], row('size', True, 0.02, 0.3),
            row('class', True, 0.33, 0.005))
    assert verdict(layer(*rows), [], WORDS)[0].startswith(
        'The experts of this layer are specialists for classes. Beyond')
    regions = verdict(layer(row('class', False, 0.2, 0.3)), [], WORDS)
    assert regions == [
        'The experts of this layer are no specialists for classes. '
        'The expert tells nothing of class beyond chance (p = 0.300).']


def test_random_gates():
    told = layer(row('size', False, 0.3, 0.001, random=0.05),
                 row('class', False, 0.4, 0.001, random=0.35))
    assert verdict(told, [], WORDS)[0].endswith(
        ' Gates that are drawn at random and see the same features tell less '
        'of size (p = 0.050). That gates drawn at random tell less of class '
        '(p = 0.350) is not shown, so it is not shown either that this was '
        'learned.')
    for low, expected in (
            (0.01, 'When the experts are drawn at random, AP falls by 2.0 '
             '[1.0, 4.0] points.'),
            (-0.01, 'That the choice of the experts matters for AP is not '
             'shown: when they are drawn at random, 2.0 [-1.0, 4.0] points '
             'are lost.')):
        told['functions']['at_random'] = {
            WORDS.all: dict(value=0.02, interval=dict(low=low, high=0.04))}
        assert expected in verdict(told, [dropped(0)], WORDS)


def test_collapse():
    said = verdict(layer(*LEVELS, bits=0.0, living=2), [], WORDS)
    assert said[0].startswith('The gate has collapsed') and '2 of 4' in said[0]
    # of an EqualGate nobody expects anything else
    assert verdict(layer(*LEVELS, bits=0.0, living=2, chooses=False),
                   [], WORDS)[0] == '2 of 4 experts are in use.'
    assert verdict(layer(*LEVELS, living=3), [], WORDS)[0] == (
        '3 of 4 experts are in use.')


def test_what_is_lost():
    found = dict(experts=(2, 0), groups=('small objects', 'large objects'),
                 more=[dict(value=0.13, interval=dict(low=0.1, high=0.16))] * 2,
                 lost=[dict(value=0.1, interval=dict(low=0.1, high=0.1)),
                       dict(value=0.0, interval=dict(low=0.0, high=0.1))])
    said = verdict(layer(*LEVELS, dissociations=[found]), [
        dropped(0, AP_L=-0.02), dropped(1), dropped(2, AP_S=-0.135,
                                                    AP_M=-0.01)], WORDS)
    assert said[1:] == [
        'Without expert 0 large objects lose most (-2.0 [-2.5, -1.5] points of '
        'AP).',
        'Without expert 2 small objects lose most (-13.5 [-14.0, -13.0] points '
        'of AP).',
        '3 of 12 intervals of what sizes and classes lose without an expert '
        'are below 0; by chance alone it would be about 0.3.',
        '1 pair of experts is doubly dissociated: small objects lose 13.0 '
        '[10.0, 16.0] points more without 2, and large objects 13.0 [10.0, '
        '16.0] more without 0 (by chance about 0.2 pairs, p = 0.002). That '
        'both groups lose something altogether is shown for 0 of 1.']
    unsure = layer(*LEVELS, dissociations=[found], p=0.3)
    assert verdict(unsure, [dropped(0)], WORDS)[-1].endswith(
        'is shown for 0 of 1. That is no more than chance: that they can do '
        'different things is not shown by this.')
    assert verdict(layer(*LEVELS), [dropped(0)], WORDS)[1:] == [
        '0 of 4 intervals of what sizes and classes lose without an expert '
        'are below 0; by chance alone it would be about 0.1.',
        'That two experts can do different things is not shown by what is lost '
        'without either.']
