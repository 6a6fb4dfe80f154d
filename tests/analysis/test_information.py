"""Planted assignments give the answers that are known."""
import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from mmdet_moe.analysis.information import (
    expert_tells,
    input_dependence,
    level_tells,
    mutual_information,
)
from mmdet_moe.layers import usage_sums

PICTURES, LEVELS, E = 60, 3, 3


def test_mutual_information_by_hand():
    assert mutual_information(np.eye(4)) == pytest.approx(2)
    assert mutual_information(np.ones((2, 3))) == pytest.approx(0)
    # I = sum p log2(p / (pa pb)), p = 1/2, 1/4, 1/4, 0; pa = 3/4, 1/4 = pb
    expected = (np.log2(8 / 9) / 2 + 2 * np.log2(4 / 3) / 4)
    assert mutual_information(np.array([[2, 1], [1, 0]])) == pytest.approx(
        expected)
    assert mutual_information(np.zeros((2, 2))) == 0
    assert mutual_information(np.stack([np.eye(2), np.ones(
        (2, 2))])) == pytest.approx([1, 0])


@pytest.mark.parametrize('weights, all_, given_place', [
    # balanced and constant: every picture gets the same two experts
    (np.tile([0.5, 0.5, 0, 0], (8, 2, 1)), 0, 0),
    # by the level only: log2 2 bits, none of them from the picture
    (np.tile(np.eye(4)[:2], (8, 1, 1)), 1, 0),
    # by the picture, one of four experts: 2 bits
    (np.eye(4)[np.arange(8) % 4][:, None].repeat(2, 1), 2, 2),
    # halves between two: H(mean) = 2, H(w) = 1
    (np.array([[.5, .5, 0, 0], [0, 0, .5, .5]])[:, None], 1, 1),
])
def test_input_dependence(weights, all_, given_place):
    sums = np.stack([
        usage_sums(torch.from_numpy(w), torch.arange(len(w)), len(w)).numpy()
        for w in weights])
    assert input_dependence(sums) == pytest.approx(all_)
    assert input_dependence(sums, given_place=True) == (
        pytest.approx(given_place))
    # a resample that takes one picture only sees no difference
    one = np.zeros((1, len(weights)))
    one[0, 0] = len(weights)
    assert input_dependence(sums, one, given_place=True) == pytest.approx(0)


class World:
    """Pictures with one object at each level; gates that look at it.

    The size goes with the level, but not always; the class is by chance.
    """

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        shape = (PICTURES, LEVELS)
        levels = np.broadcast_to(np.arange(LEVELS), shape)
        self.size = np.where(
            self.rng.random(shape) < 0.7, levels,
            self.rng.integers(0, 3, shape))
        self.label = self.rng.integers(0, 3, shape)
        self.level = levels

    def tells(self, expert, group, permutations=199, given_level=False):
        """expert: (pictures, levels) int"""
        return expert_tells(
            np.eye(E)[expert.reshape(-1)], group.reshape(-1), groups=3,
            picture=np.arange(PICTURES).repeat(LEVELS),
            level=self.level.reshape(-1) if given_level else None,
            rng=np.random.default_rng(1), permutations=permutations)

    def lookup(self, expert, group):
        return level_tells(
            np.eye(E)[expert.reshape(-1)], group.reshape(-1), groups=3,
            level=self.level.reshape(-1))


def test_by_size():
    world = World()
    tells = world.tells(world.size, world.size)
    assert tells.normalised == pytest.approx(1) and tells.p_value == 1 / 200
    given = world.tells(world.size, world.size, given_level=True)
    assert given.normalised == pytest.approx(1) and given.p_value == 1 / 200
    # the level says something of the size, but not all
    lookup = world.lookup(world.size, world.size)
    assert 0.1 < lookup['normalised'] < 0.9
    assert world.tells(world.size, world.label).p_value > 0.05


def test_random_gates_may_tell_as_much():
    """Of nine random gates two know the size, and the others the level."""
    world = World()
    told = {}
    for gate in (world.size, world.level):
        told[id(gate)] = expert_tells(
            np.eye(E)[gate.reshape(-1)], world.size.reshape(-1), groups=3,
            picture=np.arange(PICTURES).repeat(LEVELS),
            rng=np.random.default_rng(1), permutations=19, at_random=[
                np.eye(E)[g.reshape(-1)]
                for g in [world.size] * 2 + [world.level] * 7])
    size, level = told.values()
    assert size.random_p_value == 3 / 10 and level.random_p_value == 1
    assert size.random_bits == level.random_bits == pytest.approx(
        (2 * size.bits + 7 * level.bits) / 9)


def test_by_class():
    world = World()
    assert world.tells(world.label, world.label).normalised == pytest.approx(1)
    assert world.tells(world.label, world.size).p_value > 0.05
    assert world.tells(
        world.label, world.size, given_level=True).p_value > 0.05


def test_a_rare_group_with_a_rare_expert_is_one_object():
    group = np.repeat([0, 1, 2], [200, 199, 1])
    tells = expert_tells(
        np.eye(3)[group], group, groups=3, picture=np.arange(400),
        rng=np.random.default_rng(0), permutations=99)
    assert tells.p_value == 0.01 and tells.bits > 1 and tells.chance < 0.02


def test_by_level_only():
    world = World()
    tells = world.tells(world.level, world.size)
    assert tells.bits > 0.3 and tells.p_value == 1 / 200
    assert tells.nmi == pytest.approx(normalized_mutual_info_score(
        world.level.reshape(-1), world.size.reshape(-1)))
    lookup = world.lookup(world.level, world.size)
    assert lookup['bits'] == pytest.approx(tells.bits)
    given = world.tells(world.level, world.size, given_level=True)
    assert given.bits == pytest.approx(0, abs=1e-12) and given.p_value == 1


def test_constant():
    world = World()
    constant = np.zeros((PICTURES, LEVELS), int)
    for given_level in (False, True):
        tells = world.tells(constant, world.size, given_level=given_level)
        assert tells.bits == pytest.approx(0, abs=1e-12)
        assert tells.p_value == 1


def unrelated(kind, seed):
    """Weights and classes that have nothing to do with each other, but much
    with the objects' picture, decision or level; some have many objects."""
    rng = np.random.default_rng(seed)
    shape = (PICTURES, LEVELS)
    many = rng.poisson(rng.gamma(1.5, 6, (PICTURES, 1)) * [0.6, 0.3, 0.1])
    picture, level = (x.reshape(-1).repeat(many.reshape(-1))
                      for x in np.indices(shape))
    expert = rng.integers(0, E, shape)
    label = rng.integers(0, 3, len(picture))
    if kind == 'a gate that knows the level only':
        expert = np.broadcast_to(np.arange(LEVELS), shape)
    elif kind == 'a gate and classes by picture':
        expert = np.broadcast_to(expert[:, :1], shape)
        label = rng.integers(0, 3, PICTURES)[picture]
    elif kind == 'classes by decision':
        label = rng.integers(0, 3, shape)[picture, level]
    elif kind == 'classes by level':
        label = np.where(rng.random(len(label)) < 0.8, level, label)
    return dict(weights=np.eye(E)[expert[picture, level]], group=label,
                groups=3, picture=picture, rng=rng), level


@pytest.mark.parametrize('kind, given_level', [
    ('a gate by decision', False),
    ('a gate that knows the level only', False),
    ('a gate and classes by picture', True),
    ('classes by decision', True),
    ('classes by level', False),
    ('classes by level', True)])
def test_p_values_are_uniform_if_nothing_is_told(kind, given_level):
    p = []
    for seed in range(200):
        objects, level = unrelated(kind, seed)
        p.append(expert_tells(
            **objects, level=level if given_level else None,
            permutations=39).p_value)
    # 200 uniform numbers: mean 0.51 +- 0.02, up to 0.05: 10 +- 3
    assert 0.44 < np.mean(p) < 0.58
    assert np.sum(np.array(p) <= 0.05) <= 20


def test_chance_is_what_is_found_if_nothing_is_told():
    found = [expert_tells(**unrelated('a gate by decision', seed)[0],
                          permutations=39) for seed in range(200)]
    assert np.mean([x.bits for x in found]) == pytest.approx(
        np.mean([x.chance for x in found]), rel=0.15)


def test_all_objects_alike():
    world = World()
    tells = world.tells(world.size, np.zeros_like(world.size))
    assert tells.normalised is None and tells.bits == 0 and tells.p_value == 1
    lookup = world.lookup(world.size, np.zeros_like(world.size))
    assert lookup['normalised'] is None
