"""What gates choose that have learned nothing."""
import numpy as np

from mmdet_moe.analysis.information import expert_tells
from mmdet_moe.analysis.random_gates import NUMBER, RandomGates

N, C, E = 400, 16, 4
RNG = np.random.default_rng(0)
LABEL = RNG.integers(0, 2, N)
#: Far from 0, as means of maps are.
NOISE = 30 + RNG.standard_normal((N, C))
WEIGHTS = np.tile([0.7, 0.3, 0, 0], (N, 1))


def tells(features):
    return expert_tells(
        np.eye(E)[LABEL], LABEL, groups=2, picture=np.arange(N),
        rng=np.random.default_rng(1), permutations=19,
        at_random=RandomGates(features, np.eye(E)[LABEL], seed=0))


def test_only_the_choice_differs_and_all_experts_are_chosen():
    gates = RandomGates(NOISE, WEIGHTS, seed=0)
    drawn = list(gates)
    assert len(drawn) == NUMBER
    for one, again in zip(drawn[:5], gates):
        assert (one == again).all()
        assert (np.sort(one, axis=1) == np.sort(WEIGHTS, axis=1)).all()
        first = np.bincount(one.argmax(axis=1), minlength=E)
        assert first.min() > 0.1 * N
    assert (drawn[0] != drawn[1]).any()


def test_they_tell_what_is_in_the_features():
    nothing = tells(NOISE)
    assert nothing.random_bits < 0.05 and nothing.random_p_value == 0.01
    sorted_by_class = NOISE + 40 * LABEL[:, None]
    much = tells(sorted_by_class)
    assert much.random_bits > 0.5 * much.bits
