"""Experts of two trainings, matched."""
import numpy as np
import pytest

from mmdet_moe.analysis.stability import Profile, profile, stability


def made(weights, seed=0):
    weights = np.asarray(weights, float)
    return Profile([f'group {i}' for i in range(len(weights))],
                   np.full(len(weights), 10), weights)


def test_profile_by_hand():
    weights = np.repeat([[1, 0], [0, 1], [0.5, 0.5]], [5, 6, 4], axis=0)
    size = np.repeat([0, 1, 1], [5, 6, 4])
    label = np.array([0] * 5 + [1] * 6 + [0] * 3 + [-1])
    found = profile(weights, [(label, ['cat', 'dog']), (size, ['S', 'L'])])
    # of large cats there are three, too few; one object has no class
    assert found.groups == ['cat, S', 'dog, L']
    assert found.counts.tolist() == [5, 6]
    assert found.weights.tolist() == [[1, 0], [0, 1]]


def test_the_same_experts_in_another_order():
    rng = np.random.default_rng(0)
    one = rng.dirichlet(np.ones(4), 12)
    found = stability(made(one), made(one[:, [2, 0, 3, 1]]), rng=rng,
                      permutations=99)
    assert found.correlation == pytest.approx(1)
    assert found.matches == (1, 3, 0, 2)
    assert found.p_value == 0.01 and found.chance < 0.9


def test_experts_that_are_never_used_do_not_count():
    one = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    one = np.pad(one, ((0, 0), (0, 2)))
    found = stability(made(one), made(one), rng=np.random.default_rng(0),
                      permutations=9)
    assert found.correlation == pytest.approx(1)
    assert found.matches[:3] == (0, 1, 2)


def test_unrelated_experts_are_matched_by_chance_only():
    """Then p is uniform: the mean of many is a half."""
    rng = np.random.default_rng(1)
    p = [
        stability(made(rng.dirichlet(np.ones(4), 10)),
                  made(rng.dirichlet(np.ones(4), 10)), rng=rng,
                  permutations=39).p_value for _ in range(60)
    ]
    assert np.mean(p) == pytest.approx(0.5, abs=0.12)
    # matching alone brings something
    found = stability(made(rng.dirichlet(np.ones(4), 10)),
                      made(rng.dirichlet(np.ones(4), 10)), rng=rng)
    assert found.chance > 0.2


def test_groups_in_common():
    one = made([[1, 0], [0, 1], [1, 0]])
    other = Profile(['group 0', 'x'], np.array([9, 9]), np.eye(2))
    assert stability(one, other, rng=np.random.default_rng(0)) is None
