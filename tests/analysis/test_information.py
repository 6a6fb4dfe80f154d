"""Planted assignments give the answers that are known."""
import numpy as np
import pytest

from mmdet_moe.analysis.information import (
    Assignment,
    expert_tells,
    input_dependence,
    level_tells,
    mutual_information,
)

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
    assert input_dependence(weights) == pytest.approx(all_)
    assert input_dependence(
        weights, given_place=True) == pytest.approx(given_place)
    # a resample that takes one picture only sees no difference
    one = np.zeros((1, len(weights)))
    one[0, 0] = len(weights)
    assert input_dependence(weights, one, given_place=True) == 0


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

    def assignment(self, expert):
        """expert: (pictures, levels) int"""
        picture, level = np.indices((PICTURES, LEVELS)).reshape(2, -1)
        return Assignment(
            np.eye(E)[expert][:, :, None], picture, level,
            np.zeros_like(level), level)

    def tells(self, expert, group, permutations=199, **options):
        return expert_tells(
            self.assignment(expert), group.reshape(-1), 3,
            np.random.default_rng(1), permutations=permutations, **options)


def test_by_size():
    world = World()
    tells = world.tells(world.size, world.size)
    assert tells.normalised == pytest.approx(1) and tells.p_value == 1 / 200
    given = world.tells(world.size, world.size, given_level=True)
    assert given.normalised == pytest.approx(1) and given.p_value == 1 / 200
    # the level says something of the size, but not all
    lookup = level_tells(world.assignment(world.size),
                         world.size.reshape(-1), 3)
    assert 0.1 < lookup['normalised'] < 0.9
    assert world.tells(world.size, world.label).p_value > 0.05


def test_by_class():
    world = World()
    assert world.tells(world.label, world.label).normalised == pytest.approx(1)
    assert world.tells(world.label, world.size).p_value > 0.05
    assert world.tells(
        world.label, world.size, given_level=True).p_value > 0.05


def test_by_level_only():
    world = World()
    tells = world.tells(world.level, world.size)
    assert tells.bits > 0.3 and tells.p_value == 1 / 200
    lookup = level_tells(world.assignment(world.level),
                         world.size.reshape(-1), 3)
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


@pytest.mark.parametrize('given_level', [False, True])
@pytest.mark.parametrize('by_picture', [False, True])
def test_by_chance_p_values_are_uniform(given_level, by_picture):
    """Also where the objects of a picture share class and decision."""
    p = []
    for seed in range(60):
        world = World(seed)
        # a column for each picture, or for each level of it
        shape = (PICTURES, 1 if by_picture else LEVELS)
        expert = np.broadcast_to(
            world.rng.integers(0, E, shape), (PICTURES, LEVELS))
        label = np.broadcast_to(
            world.rng.integers(0, 3, (PICTURES, 1)), (PICTURES, LEVELS))
        p.append(
            world.tells(expert, label, 39, given_level=given_level).p_value)
    # 60 uniform numbers: mean 0.51 +- 0.04, up to 0.05: 3 +- 1.7
    assert 0.4 < np.mean(p) < 0.62
    assert np.sum(np.array(p) <= 0.05) <= 8


def test_all_objects_alike():
    world = World()
    tells = world.tells(world.size, np.zeros_like(world.size))
    assert tells.normalised is None and tells.bits == 0 and tells.p_value == 1
    lookup = level_tells(
        world.assignment(world.size), np.zeros(PICTURES * LEVELS, int), 3)
    assert lookup['normalised'] is None
