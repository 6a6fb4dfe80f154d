"""Intervals by hand, where a bootstrap has few outcomes."""
import numpy as np
import pytest

from mmdet_moe.analysis.resampling import bootstrap_counts, interval
from mmdet_moe.analysis.tables import _weight_intervals


def test_an_interval_holds_95_per_cent():
    assert interval(np.arange(1001.0)) == pytest.approx(
        dict(low=25, high=975))
    some = np.arange(1001.0)
    some[:300] = np.nan  # nothing to count in these resamples
    assert interval(some)['low'] == pytest.approx(300 + 0.025 * 700)
    some[:501] = np.nan
    assert interval(some) is None


def test_pictures_are_drawn_with_return():
    counts = bootstrap_counts(5, 2000, np.random.default_rng(0))
    assert counts.shape == (2000, 5) and (counts.sum(axis=1) == 5).all()
    # a picture is left out with probability (4/5)^5 = 0.328
    assert (counts[:, 0] == 0).mean() == pytest.approx(0.328, abs=0.03)


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
