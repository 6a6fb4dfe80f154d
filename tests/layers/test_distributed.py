"""Two ranks with half of the samples each, against one process with all."""
import copy
import os
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
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


def on_rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    for variant in OPTIONS:
        layer, x = build(variant)
        wrapped = DistributedDataParallel(layer)
        for _ in range(2):  # the second pass fails if a gradient was missing
            layer.zero_grad()
            result = train_step(layer, wrapped, x[2 * rank:2 * rank + 2])
            result = copy.deepcopy(result)
        torch.save(result, f'{folder}/{variant}{rank}.pth')
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    port = 20000 + os.getpid() % 20000
    mp.spawn(on_rank, (port, str(tmp_path)), nprocs=2)
    for variant in OPTIONS:
        layer, x = build(variant)
        for _ in range(2):
            layer.zero_grad()
            expected = train_step(layer, layer, x)
        assert expected['state'].any()
        for rank in range(2):
            result = torch.load(tmp_path / f'{variant}{rank}.pth')
            for name, value in expected.items():
                assert torch.allclose(result[name], value, atol=1e-5), name


# What the gate sees of each rank's calls of layer B: with sign_routed() a
# sample of ones goes to expert 0, of minus ones to expert 1. Rank 0 never
# calls it.
CALLS = ((), ((1, 3), (-1, 1)))  # sign, number of samples


def sign_routed(**options):
    """Three experts: 0 for positive features, 1 for negative ones."""
    layer = MoELayer(
        lambda: nn.Conv2d(4, 4, 1), 4, num_experts=3, top_k=2,
        soft_constraint=dict(type='ImportanceLoss', weight=1.0), **options)
    layer.gate.fc_bias.data = torch.tensor([0.0, 0.0, -99.0])
    layer.gate.fc_weight.data = torch.tensor([[9.0] * 4, [-9.0] * 4, [0.0] * 4])
    return layer


def call(layer, calls):
    for sign, n in calls:
        layer(torch.full((n, 4, 2, 2), float(sign)))


def skipping(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    reduce, count = dist.all_reduce, []

    def counted(tensor, *args, **kwargs):
        count.append(tensor.shape)
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    result = {}
    for over in ('step', 'call'):
        layers = dict(
            a=sign_routed(),
            b=sign_routed(balance_over=over, hard_constraint=dict(
                type='RelativeImportance')),
            idle=sign_routed(balance_over=over))
        call(layers['a'], [(1, 2)])
        call(layers['b'], CALLS[rank])
        count.clear()
        summaries = collect(layers)
        loss = sum(s.losses['importance'] for s in summaries.values() if s)
        loss.backward()
        result[over] = dict(
            collectives=len(count),
            idle=summaries['idle'] is None,
            a=summaries['a'].importance.tolist(),
            b=summaries['b'].importance.tolist(),
            share=summaries['b'].share.tolist(),
            loss=summaries['b'].losses['importance'].item(),
            pending=layers['b'].hard_constraint.pending.tolist())
        layers['b'].step()
    # Nobody has a sample, which is a call nevertheless.
    layer = sign_routed(balance_over='call')
    if rank == 0:
        layer(torch.zeros(0, 4, 2, 2))
    result['empty'] = layer.collect().losses['importance'].item()
    torch.save(result, f'{folder}/{rank}.pth')
    dist.all_reduce = reduce
    dist.destroy_process_group()


def test_a_rank_may_skip_a_layer(tmp_path):
    port = 20000 + (os.getpid() + 27) % 20000
    mp.spawn(skipping, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f'{r}.pth') for r in range(2))
    assert first == second
    # Importance (3, 1, 0): variance 7/3 over the square of the mean 4/3. Of
    # each call on its own, (3, 0, 0) and (0, 1, 0): 3.
    for over, collectives, loss in (('step', 1, 21 / 16), ('call', 2, 3.0)):
        assert first[over] == dict(
            collectives=collectives,
            idle=True,
            a=approx([1, 0, 0]),
            b=approx([0.75, 0.25, 0]),
            share=[1, 1, 0],
            loss=approx(loss),
            pending=approx([3, 1, 0]))
    assert first['empty'] == 0
