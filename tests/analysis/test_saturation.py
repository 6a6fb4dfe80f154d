import numpy as np
import pytest

from mmdet_moe.analysis.saturation import overlap


def test_overlap_by_hand():
    final = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    assert overlap(final, final) == (1, 0.5)
    earlier = np.array([[1, 0, 1, 0], [1, 0, 1, 0]], bool)
    # one of two each; expert 0 always, in the end half of the time
    assert overlap(earlier, final) == (0.5, 0.5)
    assert overlap(~final, final)[0] == 0


def test_chance_is_what_unrelated_gates_have():
    rng = np.random.default_rng(0)
    # expert 0 is preferred by both
    one, other = (
        np.argsort(rng.random((20000, 4)) - [0.5, 0, 0, 0])[:, :2]
        for _ in range(2))
    selected = [(x[:, :, None] == np.arange(4)).any(axis=1)
                for x in (one, other)]
    found, chance = overlap(*selected)
    assert found == pytest.approx(chance, abs=0.01) and chance > 0.53
