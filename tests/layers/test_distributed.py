"""Two ranks with half of the samples each, against one process with all."""
import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmdet_moe.layers import MoELayer, collect

approx = partial(pytest.approx, abs=1e-4)

OPTIONS = dict(
    per_step=dict(
        soft_constraint=[
            dict(type=f'{name}Loss', weight=1.0)
            for name in ('KL', 'Switch', 'Entropy', 'RouterZ', 'Variance')
        ],
        hard_constraint=dict(type='RelativeImportance', threshold=9.0)),
    per_call=dict(
        soft_constraint=dict(type='KLLoss', weight=1.0),
        balance_over='call',
        hard_constraint=dict(
            type='RelativeImportance', threshold=9.0, paper_per_call=True)))
SIDE = dict(per_step=9, per_call=3)  # convolutions are merged, and are not


def build(variant):
    torch.manual_seed(0)
    layer = MoELayer(lambda: nn.Conv2d(4, 4, 1), 4, **OPTIONS[variant])
    # Expert 3 is idle everywhere, and what a rank uses differs.
    layer.gate.fc_bias.data = torch.tensor([0.0, 0.0, 0.0, -99.0])
    layer.gate.fc_weight.data *= 9
    return layer, torch.randn(4, 4, SIDE[variant], SIDE[variant])


def train_step(layer, forward, x):
    """Gradients and constraint state after one step of loss and balance."""
    out = forward(x).relu_()  # in place, as in a ConvModule
    summary = layer.collect()
    (out.pow(2).mean() + sum(summary.losses.values())).backward()
    layer.step()
    return {
        **{
            n: torch.zeros_like(p) if p.grad is None else p.grad
            for n, p in layer.named_parameters()
        }, 'state': layer.hard_constraint.relative_importance,
        **{name: loss.detach() for name, loss in summary.losses.items()}
    }


def on_rank(rank: int) -> dict:
    results = {}
    for variant in OPTIONS:
        layer, x = build(variant)
        wrapped = DistributedDataParallel(layer)
        for _ in range(2):  # the second pass fails if a gradient was missing
            layer.zero_grad()
            results[variant] = copy.deepcopy(
                train_step(layer, wrapped, x[2 * rank:2 * rank + 2]))
    return results


def test_two_ranks_equal_one_process(tmp_path):
    results = on_ranks(on_rank, tmp_path)
    for variant in OPTIONS:
        layer, x = build(variant)
        for _ in range(2):
            layer.zero_grad()
            expected = train_step(layer, layer, x)
        assert expected['state'].any()
        for result in results:
            for name, value in expected.items():
                assert torch.allclose(
                    result[variant][name], value, atol=1e-5), name


# By rank, the sign of the features of each call, and the number of samples.
CALLS = dict(
    a=([(1, 1)], [(-1, 1), (1, 2)]),  # rank 1 calls the layer once more
    b=([], [(1, 3), (-1, 1)]),  # rank 0 never does
    idle=([], []))


def sign_routed(**options):
    """Three experts: 0 for positive features, 1 for negative ones."""
    layer = MoELayer(
        lambda: nn.Conv2d(4, 4, 1), 4, num_experts=3, top_k=2,
        soft_constraint=dict(type='ImportanceLoss', weight=1.0), **options)
    layer.gate.fc_bias.data = torch.tensor([0.0, 0.0, -99.0])
    layer.gate.fc_weight.data = torch.tensor([[9.0] * 4, [-9.0] * 4, [0.0] * 4])
    return layer


def skipping(rank: int) -> dict:
    reduce, count = dist.all_reduce, []

    def counted(tensor, *args, **kwargs):
        count.append(tensor.shape)
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    result = {}
    for over in ('step', 'call'):
        hard = dict(type='RelativeImportance')
        layers = {
            name: sign_routed(balance_over=over, hard_constraint=hard)
            for name in CALLS
        }
        for name, layer in layers.items():
            for sign, n in CALLS[name][rank]:
                layer(torch.full((n, 4, 2, 2), float(sign)))
        count.clear()
        summaries = collect(layers)
        assert len(count) == dict(step=1, call=2)[over]
        assert summaries.pop('idle') is None
        result[over] = {
            name: (summary.losses['importance'].item(),
                   summary.importance.tolist(), summary.share.tolist(),
                   sum(layers[name].hard_constraint.pending).tolist())
            for name, summary in summaries.items()
        }
    # Nobody has a sample, which is a call nevertheless.
    layer = sign_routed(balance_over='call')
    if rank == 0:
        layer(torch.zeros(0, 4, 2, 2))
    result['empty'] = layer.collect().losses['importance'].item()
    dist.all_reduce = reduce
    return result


def test_a_rank_may_skip_a_layer(tmp_path):
    first, second = on_ranks(skipping, tmp_path)
    assert first == second
    # Importance (3, 1, 0): variance 7/3 over the square of the mean 4/3. One
    # by one, of b (3, 0, 0) and (0, 1, 0): 3. Of a the first calls of both
    # ranks, (1, 1, 0): 1/3 over 4/9, and (2, 0, 0): 3.
    losses = dict(
        step=dict(a=21 / 16, b=21 / 16), call=dict(a=(3 / 4 + 3) / 2, b=3))
    for over, expected in losses.items():
        for name, loss in expected.items():
            assert first[over][name] == (
                approx(loss), approx([0.75, 0.25, 0]), [1, 1, 0],
                approx([3, 1, 0]))
    assert first['empty'] == 0
