"""BatchNorm in experts on two ranks, by hand.

Momentum 0.1: a batch with mean m and unbiased variance v moves the running
mean from 0 to 0.1 m, and the running variance from 1 to 0.9 + 0.1 v.
"""
import torch
from ranks import on_ranks
from torch import nn

from mmdet_moe.layers.running_statistics import SharedStatistics

# What each rank gives to the two experts. Both have mean 2, or 6, and the
# deviations from it sum to 2 in square: an unbiased variance of 2 of 2.
BATCHES = (
    (None, [1., 3.]),  # rank 0: expert 0 is idle
    ([5., 7.], [5., 7.]))


def rows(values):
    return torch.tensor(values)[:, None]


def state(norm):
    return [
        round(x.item(), 5) for x in (norm.running_mean, norm.running_var,
                                     norm.num_batches_tracked)
    ]


def on_rank(rank):
    experts = nn.ModuleList(nn.BatchNorm1d(1) for _ in range(2))
    without = nn.BatchNorm1d(1, track_running_stats=False)
    shared = SharedStatistics([experts, without])
    result = []
    for _ in range(2):
        for norm, batch in zip(experts, BATCHES[rank]):
            if batch is not None:
                norm(rows(batch))
        shared.synchronise()
        result.append([state(norm) for norm in experts])
    shared.synchronise()  # nothing has moved
    result.append([state(norm) for norm in experts])
    return result


def test_statistics_of_two_ranks(tmp_path):
    first, second = on_ranks(on_rank, tmp_path)
    assert first == second
    # Expert 0 moves as on rank 1: mean 0.1 * 6, then 0.9 * 0.6 + 0.6.
    # Expert 1 moves by the mean of 0.1 * 2 and 0.1 * 6, then to the mean of
    # 0.9 * 0.4 + 0.2 and 0.9 * 0.4 + 0.6. Variances: 0.9 + 0.2, 0.99 + 0.2.
    assert first[0] == [[0.6, 1.1, 1], [0.4, 1.1, 1]]
    assert first[1] == [[1.14, 1.19, 2], [0.76, 1.19, 2]]
    assert first[2] == first[1]


def test_a_single_process_is_left_alone():
    norm = nn.BatchNorm1d(1)
    shared = SharedStatistics([norm])
    norm(rows([1., 3.]))
    shared.synchronise()
    assert state(norm) == [0.2, 1.1, 1]
