"""Words that are no stronger than the numbers."""
import numpy as np
import pytest

from mmdet_moe.analysis.dissociation import double_dissociations
from mmdet_moe.analysis.verdict import verdict


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
    one, = found
    assert one.experts == (0, 1) and one.groups == ('small', 'large')
    assert [x['value'] for x in one.more] == pytest.approx([0.10, 0.05])
    # within the intervals of each other: nothing
    noisy = losses(small=0.10, large=0.0)
    noisy['small'][1:] += np.linspace(-0.3, 0.3, 41)
    assert double_dissociations({
        0: noisy, 1: losses(small=0.0, large=0.05)}) == []
    nothing = losses(small=np.nan, large=0.0)
    assert double_dissociations({0: nothing, 1: nothing}) == []


def row(of, given_level, part, p):
    return dict(of=of, given_level=given_level, normalised=part, p_value=p)


def layer(*rows, bits=0.5, living=4, dissociations=()):
    return dict(
        experts=4, living_experts=living, specialisation=rows,
        functions=dict(dissociations=list(dissociations), by_others=[]),
        input_dependence=dict(
            most=2.0, all=dict(bits=bits, interval=dict(low=bits, high=bits))))


def dropped(expert, **changes):
    """Values with intervals of half a point to each side."""
    def change(x):
        return dict(value=x, interval=dict(low=x - 0.005, high=x + 0.005))
    sizes = {key: change(changes.get(key, 0.0))
             for key in ('AP', 'AP_S', 'AP_M', 'AP_L')}
    return dict(kind='drop', value=expert, difference=sizes,
                difference_by_class=dict(cat=change(0.001)))


LEVELS = (row('level', False, 0.6, 0.001), row('size', False, 0.4, 0.001),
          row('size', True, 0.01, 0.045), row('class', True, 0.004, 0.4))


def test_levels():
    said = verdict(layer(*LEVELS), [])
    assert said == [
        'The experts of this layer are specialists for levels. Beyond the '
        'level the expert tells 1 % of size (p = 0.045) and nothing of class '
        'beyond chance (p = 0.400).'
    ]


def test_objects():
    rows = (*LEVELS[:2], row('size', True, 0.02, 0.3),
            row('class', True, 0.33, 0.005))
    assert verdict(layer(*rows), [])[0].startswith(
        'The experts of this layer are specialists for classes. Beyond')
    regions = verdict(layer(row('class', False, 0.2, 0.3)), [])
    assert regions == [
        'The experts of this layer are no specialists for levels, sizes or '
        'classes. The expert tells nothing of class beyond chance (p = 0.300).']


def test_collapse():
    said = verdict(layer(*LEVELS, bits=0.0, living=2), [])
    assert said[0].startswith('The gate has collapsed') and '2 of 4' in said[0]
    assert verdict(layer(*LEVELS, living=3), [])[0] == (
        '3 of 4 experts are in use.')


def test_what_is_lost():
    found = dict(experts=(2, 0), groups=('small objects', 'large objects'),
                 more=[dict(value=0.13, interval=dict(low=0.1, high=0.16))] * 2)
    said = verdict(layer(*LEVELS, dissociations=[found]), [
        dropped(0, AP_L=-0.02), dropped(1), dropped(2, AP_S=-0.135,
                                                    AP_M=-0.01)])
    assert said[1:] == [
        'Without expert 0 large objects lose most (-2.0 [-2.5, -1.5] points of '
        'AP).',
        'Without expert 2 small objects lose most (-13.5 [-14.0, -13.0] points '
        'of AP).',
        '3 of 12 intervals of what sizes and classes lose without an expert '
        'are below 0; by chance alone it would be about 0.3.',
        '1 pair of experts is doubly dissociated: small objects lose 13.0 '
        '[10.0, 16.0] points more without 2, and large objects 13.0 [10.0, '
        '16.0] more without 0.']
    assert verdict(layer(*LEVELS), [dropped(0)])[1:] == [
        '0 of 4 intervals of what sizes and classes lose without an expert '
        'are below 0; by chance alone it would be about 0.1.',
        'No two experts are doubly dissociated by what is lost without either: '
        'that they can do different things is not shown by this.']
