"""Intervals by hand, where a bootstrap has few outcomes."""
import numpy as np
import pytest

from mmdet_moe.analysis.resampling import bootstrap_counts, interval


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
